//! How segments become a film: planning, history, conditions, checkpoints, drift.
