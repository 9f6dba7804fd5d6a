//! The pickle inside a PyTorch archive.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    longreel_weights::fuzzing::pickle(bytes);
});
