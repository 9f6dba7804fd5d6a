//! config.json of every network, official configurations, and the index of shards.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    longreel_weights::fuzzing::json(bytes);
});
