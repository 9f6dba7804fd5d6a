//! Patterns of names: text in which `{}` stands for a number.

/// Renames by the first row whose left side is `name`, or `name` up to a dot.
pub(crate) fn rename(table: &[(&str, &str)], name: &str) -> Option<String> {
    table.iter().find_map(|(from, to)| {
        let (numbers, rest) = match_start(from, name)?;
        (rest.is_empty() || rest.starts_with('.')).then(|| fill(to, &numbers) + rest)
    })
}

/// Finds the row whose left or right side is `name` with its dots written as underscores, as kohya's
/// LoRAs do, and gives the right side.
pub(crate) fn match_underscored(table: &[(&str, &str)], name: &str) -> Option<String> {
    table.iter().find_map(|(from, to)| {
        [from, to].into_iter().find_map(|side| match match_start(&side.replace('.', "_"), name)? {
            (numbers, "") => Some(fill(to, &numbers)),
            _ => None,
        })
    })
}

/// Matches a pattern with the start of `name`: the numbers, and what is left.
pub(crate) fn match_start<'n>(pattern: &str, name: &'n str) -> Option<(Vec<&'n str>, &'n str)> {
    let mut parts = pattern.split("{}");
    let mut rest = name.strip_prefix(parts.next()?)?;
    let mut numbers = Vec::new();
    for part in parts {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        // Longer numbers than that count no blocks.
        if !(1..=6).contains(&digits) {
            return None;
        }
        numbers.push(&rest[..digits]);
        rest = rest[digits..].strip_prefix(part)?;
    }
    Some((numbers, rest))
}

fn fill(pattern: &str, numbers: &[&str]) -> String {
    let mut numbers = numbers.iter();
    let mut out = String::with_capacity(pattern.len() + 8);
    for (i, part) in pattern.split("{}").enumerate() {
        if i > 0 {
            out.push_str(numbers.next().unwrap_or(&""));
        }
        out.push_str(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: [(&str, &str); 2] =
        [("blocks.{}.self_attn.q", "blocks.{}.attn1.to_q"), ("head.head", "proj_out")];

    #[test]
    fn numbers_and_leaves_are_carried_over() {
        let name = rename(&TABLE, "blocks.12.self_attn.q.weight");
        assert_eq!(name.as_deref(), Some("blocks.12.attn1.to_q.weight"));
        assert_eq!(rename(&TABLE, "head.head.bias").as_deref(), Some("proj_out.bias"));
    }

    #[test]
    fn a_name_is_matched_up_to_a_dot_only() {
        assert_eq!(rename(&TABLE, "blocks.1.self_attn.qx.weight"), None);
        assert_eq!(rename(&TABLE, "blocks.x.self_attn.q.weight"), None);
        assert_eq!(rename(&TABLE, "blocks.1234567.self_attn.q.weight"), None);
    }

    #[test]
    fn underscored_names_match_either_side() {
        let q = Some("blocks.3.attn1.to_q".to_owned());
        assert_eq!(match_underscored(&TABLE, "blocks_3_self_attn_q"), q);
        assert_eq!(match_underscored(&TABLE, "blocks_3_attn1_to_q"), q);
        assert_eq!(match_underscored(&TABLE, "blocks_3_self_attn_qq"), None);
    }
}
