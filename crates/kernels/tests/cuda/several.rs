//! Several cards, where there are some: what goes from one to another.

use std::time::{Duration, Instant};

use longreel_kernels::cuda::{cards, connection, open};
use longreel_kernels::gpu::{Element, Gpu};
use longreel_kernels::ranks::{LocalGroup, RankError};
use longreel_kernels::{Device, Tensor};

/// The first cards, or a word about why the test is skipped.
fn several(count: usize) -> Option<Vec<Device>> {
    let found = cards().len();
    if found < count {
        eprintln!("skipped: {count} cards are wanted, {found} are there");
        return None;
    }
    let card = |ordinal| open(ordinal).map(|card| Device::Gpu(Gpu::new(card, Element::Bf16)));
    let opened = (0..count as u32).map(card).collect::<Result<_, _>>();
    opened.map_err(|error| eprintln!("skipped: {error}")).ok()
}

/// Told by everything in it: turn, sender, receiver, and place.
fn value(turn: usize, from: usize, to: usize) -> Tensor {
    // As uneven as the strips of a picture, and once nothing at all.
    let len = if (turn + from + to) % 5 == 4 { 0 } else { 3000 + 1000 * ((from + 2 * to) % 3) };
    let number = (100 * turn + 10 * from + to) as f32;
    Tensor::from_vec(&[len], (0..len).map(|n| number + n as f32 / 8192.0).collect())
}

fn exchange(group: &LocalGroup, turns: usize) -> Result<Vec<Vec<Tensor>>, RankError> {
    let count = group.count();
    group.run((0..count).collect(), |ranks, rank| {
        let own = &group.devices()[rank];
        let mut all = Vec::new();
        for turn in 0..turns {
            if (turn + rank) % 2 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
            let parts = (0..count).map(|to| Ok(value(turn, rank, to).on(own)?.into_owned()));
            let parts = parts.collect::<Result<_, RankError>>()?;
            all.extend(ranks.all_to_all(parts)?);
            // What was sent lay where this comes to lie, and may still be on its way.
            let over = Tensor::from_vec(&[9000], vec![f32::NAN; 9000]);
            for _ in 0..count {
                over.on(own)?;
            }
        }
        Ok(all.into_iter().map(Tensor::into_host).collect::<Result<_, _>>()?)
    })
}

#[test]
fn cards_get_what_the_others_had_for_them_whatever_is_done_with_the_memory_then() {
    for count in [2, 4, 8] {
        let Some(devices) = several(count) else { return };
        let group = match LocalGroup::new(devices) {
            Ok(group) => group,
            Err(error) => panic!("no way: {error}"),
        };
        println!("way of {count}: {}", group.way().expect("several cards have one"));
        let numbers: Vec<_> = (0..count as u32).collect();
        println!("connected: {:?}", connection(&numbers).expect("several cards"));
        group.warnings().for_each(|warning| println!("warning: {warning}"));
        let got = exchange(&group, 5).unwrap_or_else(|error| panic!("failed: {error}"));
        for (rank, got) in got.into_iter().enumerate() {
            for (n, got) in got.into_iter().enumerate() {
                let (turn, from) = (n / count, n % count);
                assert!(got == value(turn, from, rank), "turn {turn}, {from} to {rank} of {count}");
            }
        }
    }
}

/// For a stand-in that fails after a while.
#[test]
fn a_way_that_fails_in_the_middle_is_an_error_soon() {
    if std::env::var_os("STAND_IN_NCCL_FAILS_LATER").is_none() {
        return;
    }
    let Some(devices) = several(2) else { return };
    let group = LocalGroup::new(devices).expect("it fails later");
    let begun = Instant::now();
    let error = exchange(&group, 1000).expect_err("it fails");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    println!("failed: {error}");
    // The cards are as they were.
    let error = exchange(&group, 1).expect_err("it has failed");
    println!("again: {error}");
    for device in group.devices() {
        let there = value(1, 0, 1).on(device).expect("memory").into_owned();
        assert!(there.into_host().expect("the card goes on") == value(1, 0, 1));
    }
}
