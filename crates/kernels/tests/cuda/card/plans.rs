//! More shapes than plans are kept of.

use longreel_kernels::gpu::{SoftmaxAttention, Vendor};

use super::{card_alone, small_attention};

#[test]
fn more_shapes_than_plans_are_kept_are_all_computed() {
    let Some(card) = card_alone() else { return };
    if card.name() != "a card that is not there" {
        eprintln!("{} compiles each plan, which takes minutes", card.name());
        return;
    }
    let what = small_attention(&*card);
    // Nobody waits for one of them.
    for queries in (1..=64).rev() {
        for keys in 60..65 {
            let what = SoftmaxAttention { queries, keys, ..what };
            match card.attention(&what).expect("no failure") {
                Vendor::Refused => return eprintln!("cuDNN is not there: {:?}", card.notes()),
                done => assert_eq!(done, Vendor::First, "{queries} and {keys}"),
            }
        }
    }
    card.wait().expect("done");
}
