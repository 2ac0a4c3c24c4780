//! The operators themselves: each file describes one as a [`crate::operator::Link`] and runs it as a
//! [`crate::operator::Stage`].

mod co_process;
mod flat_map;
mod keyed;
mod map;
mod process;
mod side_output;
mod sink;
mod timers;

pub use co_process::{CoProcess, CoProcessFunction, KeyedCoProcess, TwoLink};
pub use flat_map::{FlatMap, TryFlatMap};
pub use keyed::{KeyedProcess, KeyedReduce, KeyedSum};
pub use map::{Filter, Map, TryMap};
pub use process::{Process, ProcessFunction, RuntimeContext};
pub use side_output::{SideOutput, SideSlot};
pub use sink::SinkStage;
pub use timers::{KeyedContext, KeyedTimers, TimerService};
