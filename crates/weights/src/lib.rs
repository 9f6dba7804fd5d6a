//! What a checkpoint file says: every container and published layout, read as data, under one set of names.
