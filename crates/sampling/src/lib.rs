//! How noise becomes latents: timetables, solvers, guidance, step caches, counter-based noise.
