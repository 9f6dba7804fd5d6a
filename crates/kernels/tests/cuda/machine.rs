//! What the compiler made of our kernels: a card refuses to start one whose registers or shared memory are more
//! than a block can have, and one that keeps its values in memory for want of registers is slow. Machine code
//! (ELF, with NVIDIA's attributes) says all of it.

use std::collections::BTreeMap;
use std::path::Path;

use longreel_kernels::cuda::{Cache, Target, source_of};
use longreel_kernels::gpu::SOURCES;

use crate::compiler;
use crate::compiler::{CACHES, CARDS, complaints};

/// Registers of a block on every card; a warp gets them in eights for each lane.
const REGISTERS: u32 = 65_536;
/// Shared memory that a kernel's own variables may take, in bytes.
const SHARED: u64 = 48 << 10;
/// Bytes of a thread's stack: some calls and tables, no tile.
const STACK: u32 = 64;
/// Threads of the blocks of kernels that do not say how many (`ops::THREADS`).
const THREADS: u32 = 256;

/// Attributes, as `cuobjdump -elf` names them.
const MAX_THREADS: u8 = 0x05;
const FRAME_SIZE: u8 = 0x11;
const REGCOUNT: u8 = 0x2f;

#[derive(Debug, Default, Clone, Copy)]
struct Kernel {
    registers: u32,
    stack: u32,
    threads: u32,
    shared: u64,
}

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn text(bytes: &[u8], at: u64) -> String {
    let rest = &bytes[at as usize..];
    let end = rest.iter().position(|&byte| byte == 0).expect("a text ends");
    String::from_utf8_lossy(&rest[..end]).into_owned()
}

struct Section {
    name: String,
    at: usize,
    bytes: u64,
}

fn sections(elf: &[u8]) -> Vec<Section> {
    let [first, each, count, names] =
        [(40, 8), (58, 2), (60, 2), (62, 2)].map(|(at, len)| number(elf, at, len));
    let header = |n: u64| (first + n * each) as usize;
    let names = number(elf, header(names) + 24, 8);
    let section = |n| {
        let header = header(n);
        Section {
            name: text(elf, names + number(elf, header, 4)),
            at: number(elf, header + 24, 8) as usize,
            bytes: number(elf, header + 32, 8),
        }
    };
    (0..count).map(section).collect()
}

/// The attributes of a section that have a size of their own, each with its values.
fn attributes<'a>(elf: &'a [u8], section: &Section) -> Vec<(u8, &'a [u8])> {
    const SIZED: u8 = 4;
    let mut rest = &elf[section.at..section.at + section.bytes as usize];
    let mut found = Vec::new();
    while let [form, what, low, high, more @ ..] = rest {
        let len = if *form == SIZED { usize::from(u16::from_le_bytes([*low, *high])) } else { 0 };
        if *form == SIZED {
            found.push((*what, &more[..len]));
        }
        rest = &more[len..];
    }
    found
}

/// The kernels of a module by name.
fn kernels(elf: &[u8]) -> BTreeMap<String, Kernel> {
    let sections = sections(elf);
    let section = |name: &str| sections.iter().find(|section| section.name == name);
    let symbols = section(".symtab").expect("symbols").at;
    let names = section(".strtab").expect("names").at as u64;
    let symbol = |n: u64| text(elf, names + number(elf, symbols + 24 * n as usize, 4));
    let mut kernels = BTreeMap::<String, Kernel>::new();
    for section in &sections {
        if let Some(name) = section.name.strip_prefix(".nv.info.") {
            let of = attributes(elf, section).into_iter().find(|(what, _)| *what == MAX_THREADS);
            let threads = of.map_or(THREADS, |(_, values)| number(values, 0, 4) as u32);
            kernels.entry(name.to_owned()).or_default().threads = threads;
        }
    }
    for section in &sections {
        if let Some(kernel) =
            section.name.strip_prefix(".nv.shared.").and_then(|name| kernels.get_mut(name))
        {
            kernel.shared = section.bytes;
        }
    }
    for (what, values) in attributes(elf, section(".nv.info").expect("attributes")) {
        if values.len() != 8 {
            continue;
        }
        let value = number(values, 4, 4) as u32;
        match (what, kernels.get_mut(&symbol(number(values, 0, 4)))) {
            (REGCOUNT, Some(kernel)) => kernel.registers = value,
            (FRAME_SIZE, Some(kernel)) => kernel.stack = value,
            _ => {}
        }
    }
    kernels
}

#[test]
fn every_kernel_fits_every_card_and_keeps_its_values_in_registers() {
    let Some(compiler) = compiler() else { return };
    assert!(complaints(&compiler).is_empty(), "see the test of the kernels");
    let cache = Cache::at(&Path::new(CACHES).join("longreel/kernels"));
    let known = compiler.architectures();
    for card in CARDS.into_iter().filter(|card| known.contains(card)) {
        for module in SOURCES.iter().map(|row| row.0).filter(|&name| name != "common") {
            let source = source_of(module).expect("one of the list");
            let key = compiler.key(&source, Target::Machine(card));
            let elf = cache.get(&key).expect("compiled before");
            let found = kernels(&elf);
            assert!(!found.is_empty(), "{module} for {card}");
            for (name, kernel) in found {
                let what = format!("{name} for {card}: {kernel:?}");
                let registers = kernel.registers.next_multiple_of(8) * kernel.threads;
                assert!(kernel.registers > 0 && registers <= REGISTERS, "{what}");
                assert!(kernel.stack <= STACK, "{what}");
                assert!(kernel.shared <= SHARED, "{what}");
            }
        }
    }
}
