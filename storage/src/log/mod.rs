//! Log-structured keyed state.
#![allow(dead_code)]
mod cold;
