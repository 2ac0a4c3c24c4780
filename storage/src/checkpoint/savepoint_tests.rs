//! Claims about savepoints on disk.
