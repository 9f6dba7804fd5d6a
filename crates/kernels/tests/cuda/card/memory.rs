//! What a card does when it has no memory for what its driver and libraries take by themselves.

use longreel_kernels::gpu::{Arg, Element, GpuError, MatMul, Operands};

use super::{NARROW, card_alone, numbers, put, put_bf16, small_attention};

/// A film is made with fewer frames at once then; any other failure would have its process ended.
#[test]
fn what_there_is_no_memory_for_is_told_as_a_want_of_memory() {
    let Some(card) = card_alone() else { return };
    let (from, to) = (put(&*card, &numbers(64, 1)), card.alloc(128).expect("a little memory"));
    let args = [Arg::Pointer(to), Arg::Pointer(from), Arg::Long(64)];
    let what = MatMul {
        x: put_bf16(&*card, &numbers(64, 2)),
        weight: put_bf16(&*card, &numbers(64, 3)),
        out: card.alloc(256).expect("a little memory"),
        bias: None,
        rows: 8,
        inputs: 8,
        outputs: 8,
        operands: Operands::Plain(Element::Bf16),
        out_element: Element::F32,
        gelu: false,
        add: false,
    };
    let graph = card.begin_capture().and_then(|()| {
        let zeroed = card.zero(to, 128);
        let graph = card.end_capture();
        zeroed.and(graph)
    });
    let discarded = graph.map(|graph| card.discard(graph));
    for done in [card.launch(&NARROW, &args), card.matmul(&what).map(|_| ()), discarded] {
        match done {
            Ok(()) | Err(GpuError::Absent { .. } | GpuError::Library { .. }) => {}
            Err(error) => {
                assert!(error.is_memory(), "{error}");
                eprintln!("told: {error}");
            }
        }
    }
}

/// Weights get what is free when they are shared out: libraries that come later would find nothing left.
#[test]
fn libraries_are_there_before_anybody_asks_for_the_free_memory() {
    let Some(card) = card_alone() else { return };
    let attention = small_attention(&*card);
    let (free, _) = card.memory().expect("told");
    for note in card.notes() {
        eprintln!("{}: {}", if note.warning { "warning" } else { "note" }, note.text);
    }
    card.attention(&attention).expect("no failure");
    // What it compiles is the driver's to keep.
    let (after, _) = card.memory().expect("told");
    eprintln!("taken later: {} bytes", free.saturating_sub(after));
}
