//! Names, sizes and shapes: which network a file holds, and what is missing in it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    longreel_weights::fuzzing::model(bytes);
});
