//! Driving a running engine from another process, over a Unix domain socket.
//!
//! An engine offers the socket where the setting `thalweg.control.socket` names its path; the command line `thalweg` and any other
//! program of the same user may connect. `protocol` says what the lines mean, `server` is the engine's side, `client` the
//! other.
//!
//! Always true:
//! - nothing of this runs on a worker, and an engine without the setting has none of it;
//! - only the user that runs the engine can connect: the socket has mode 0600 from the moment it has its name;
//! - the number of connections, the length of a line and the time that a silent connection stays are bounded.

mod client;
mod protocol;
mod server;
#[cfg(test)]
mod tests;

pub use client::{RemoteError, call};
pub use protocol::{Answer, Command, JobReport, LINE_BYTES_MAX, PROTOCOL_VERSION};
pub(super) use server::ControlSocket;
