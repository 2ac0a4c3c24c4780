//! Channels between tasks: rings of record batches, side rings of announcements, doorbells.
//!
//! A channel links one producing subtask with one consuming subtask of an edge. Batches of records travel through a
//! lock-free ring, emptied batches come back through a second one, and barriers and the end of the stream are
//! announced, out of band, through a small side ring. Records never overtake each other on a channel.

pub mod announcement;
mod availability;
mod channel;
mod cursor;
pub mod doorbell;
mod pool;

pub use announcement::{Announcement, BarrierMode, Mark};
pub use availability::{Look, Visible};
pub use channel::{ChannelSpec, Receiver, Restored, Sender, channel};
pub use cursor::Cursor;
pub use pool::BatchPool;
