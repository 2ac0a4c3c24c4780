//! The end of a chain: a small buffer of records, then one or more edges that spread them over channels.
//!
//! Always true: a record is in exactly one of the buffer, an open batch, an outbox or a ring; the first three are
//! what [`OutputPort::unsent`] captures, in the order in which they will leave.

use super::{Failure, Flow, Stage, StageControl};
use crate::clock::Nanos;
use crate::ring::{Announcement, Mark, Sender};
use std::sync::Arc;
use std::time::Duration;
use thalweg_storage::Data;

/// Records that the buffer before the edges holds at most.
const CHUNK_RECORDS: usize = 256;

/// When a batch that is not full leaves.
#[derive(Clone, Copy, Debug)]
pub struct FlushPolicy {
    /// At the latest this long after its first record.
    pub timeout: Duration,
    /// At once.
    pub force: bool,
}

/// In-flight records of one channel, encoded.
pub struct UnsentRecords {
    /// The edge.
    pub edge: Arc<str>,
    /// The consuming partition.
    pub consumer: u32,
    /// How many restores they came after, as [`Sender::generation`] counts.
    pub generation: u32,
    /// Number of records.
    pub records: u64,
    /// The records, one after another.
    pub bytes: Vec<u8>,
}

/// What a checkpoint captures of an output.
pub type Outbox = Vec<UnsentRecords>;

/// One output of a chain as the task drives it, whatever its records are.
pub trait OutputPort {
    /// True when records wait for room.
    fn is_blocked(&self) -> bool;

    /// Sends what may leave by `policy`; returns when to call again.
    fn flush(&mut self, now: Nanos, policy: FlushPolicy) -> Option<Nanos>;

    /// True when every record has left.
    fn is_drained(&self) -> bool;

    /// True when it has an edge whose records barriers do not overtake.
    fn is_aligned_only(&self) -> bool;

    /// True unless records wait on such an edge.
    fn is_settled(&self) -> bool;

    /// True when every channel can take an announcement.
    fn can_announce(&self) -> bool;

    /// Announces `mark` on every channel, behind everything pushed so far. Until [`OutputPort::unsent`] has been read
    /// nothing else may be called: a push would move records from before the mark behind it.
    fn announce(&mut self, mark: Mark);

    /// Encodes the records that have not been pushed, by channel.
    fn unsent(&mut self) -> Outbox;

    /// Records that have entered this output.
    fn records(&self) -> u64;
}

/// Chooses the consuming partition of a record.
pub trait Partition<T>: Send {
    /// The index of the consumer among `consumers`.
    fn partition(&mut self, record: &T, consumers: usize) -> usize;
}

/// An edge as the end of a chain feeds it.
pub trait EdgeWriter<T>: OutputPort + Send {
    /// Takes all of `records`, leaving it empty.
    fn write(&mut self, records: &mut Vec<T>);
}

/// Spreads records over the channels of an edge.
pub trait Route<T>: Send {
    /// Pushes all of `records`, leaving it empty, into `senders`.
    fn spread(&mut self, records: &mut Vec<T>, senders: &mut [(u32, Sender<T>)]);
}

/// Sends each record to the partition that `P` chooses.
pub struct ToOne<P>(pub P);

impl<T, P: Partition<T>> Route<T> for ToOne<P> {
    #[inline]
    fn spread(&mut self, records: &mut Vec<T>, senders: &mut [(u32, Sender<T>)]) {
        let consumers = senders.len();
        for record in records.drain(..) {
            let consumer = self.0.partition(&record, consumers);
            senders[consumer].1.push(record);
        }
    }
}

/// Sends each record to every partition.
#[derive(Clone, Copy, Debug, Default)]
pub struct ToAll;

impl<T: Clone> Route<T> for ToAll {
    fn spread(&mut self, records: &mut Vec<T>, senders: &mut [(u32, Sender<T>)]) {
        let Some((last, others)) = senders.split_last_mut() else { return records.clear() };
        for record in records.drain(..) {
            others.iter_mut().for_each(|(_, sender)| sender.push(record.clone()));
            last.1.push(record);
        }
    }
}

/// An edge: its channels, and how records are spread over them.
pub struct Edge<T, R> {
    name: Arc<str>,
    senders: Vec<(u32, Sender<T>)>,
    route: R,
    /// Barriers do not overtake its records.
    aligned_only: bool,
    records: u64,
}

impl<T, R> Edge<T, R> {
    /// An edge over `senders`, each with its consumer's partition; barriers overtake its records.
    pub fn new(name: Arc<str>, senders: Vec<(u32, Sender<T>)>, route: R) -> Self {
        Edge { name, senders, route, aligned_only: false, records: 0 }
    }

    /// The same edge; with `aligned_only` barriers do not overtake its records.
    pub fn with_alignment(mut self, aligned_only: bool) -> Self {
        self.aligned_only = aligned_only;
        self
    }
}

impl<T: Data, R: Route<T>> EdgeWriter<T> for Edge<T, R> {
    fn write(&mut self, records: &mut Vec<T>) {
        self.records += records.len() as u64;
        self.route.spread(records, &mut self.senders);
    }
}

impl<T: Data, R> OutputPort for Edge<T, R> {
    fn is_blocked(&self) -> bool {
        self.senders.iter().any(|(_, sender)| sender.is_blocked())
    }

    fn flush(&mut self, now: Nanos, policy: FlushPolicy) -> Option<Nanos> {
        let flush = |(_, sender): &mut (u32, Sender<T>)| sender.flush(now, policy.timeout, policy.force);
        self.senders.iter_mut().filter_map(flush).min()
    }

    fn is_drained(&self) -> bool {
        self.senders.iter().all(|(_, sender)| sender.is_drained())
    }

    fn is_aligned_only(&self) -> bool {
        self.aligned_only
    }

    fn is_settled(&self) -> bool {
        !self.aligned_only || self.is_drained()
    }

    fn can_announce(&self) -> bool {
        self.senders.iter().all(|(_, sender)| sender.can_announce())
    }

    fn announce(&mut self, mark: Mark) {
        for (_, sender) in &mut self.senders {
            let cut = sender.pushed();
            sender.announce(Announcement { mark, cut });
        }
    }

    fn unsent(&mut self) -> Outbox {
        let mut outbox = Vec::new();
        for (consumer, sender) in &self.senders {
            let (mut records, mut bytes) = (0, Vec::new());
            for batch in sender.unsent() {
                records += batch.len() as u64;
                batch.iter().for_each(|record| record.encode(&mut bytes));
            }
            if records > 0 {
                let edge = Arc::clone(&self.name);
                let generation = sender.generation();
                outbox.push(UnsentRecords { edge, consumer: *consumer, generation, records, bytes });
            }
        }
        outbox
    }

    fn records(&self) -> u64 {
        self.records
    }
}

/// The last stage of a chain that feeds edges.
///
/// Records gather in a small buffer, so that one boxed call serves many of them.
pub struct Output<T> {
    chunk: Vec<T>,
    chunk_records: usize,
    edges: Vec<Box<dyn EdgeWriter<T>>>,
}

impl<T: Data> Output<T> {
    /// An output to `edges`, whose batches hold `batch_records`. Without any edge, records are dropped.
    pub fn new(edges: Vec<Box<dyn EdgeWriter<T>>>, batch_records: usize) -> Self {
        let chunk_records = batch_records.clamp(1, CHUNK_RECORDS);
        Output { chunk: Vec::with_capacity(chunk_records), chunk_records, edges }
    }

    #[inline(never)]
    fn write_chunk(&mut self) -> Flow {
        let Some((last, others)) = self.edges.split_last_mut() else {
            self.chunk.clear();
            return Flow::Continue;
        };
        let mut blocked = false;
        for edge in others {
            edge.write(&mut self.chunk.clone());
            blocked |= edge.is_blocked();
        }
        last.write(&mut self.chunk);
        if blocked || last.is_blocked() { Flow::Blocked } else { Flow::Continue }
    }

    /// Takes a record.
    #[inline(always)]
    pub fn push(&mut self, record: T) -> Flow {
        self.chunk.push(record);
        if self.chunk.len() < self.chunk_records { Flow::Continue } else { self.write_chunk() }
    }
}

impl<T: Data> StageControl for Output<T> {
    fn down(&mut self) -> Option<&mut dyn StageControl> {
        None
    }
    fn resume(&mut self) -> Result<Flow, Failure> {
        Ok(if self.is_blocked() { Flow::Blocked } else { Flow::Continue })
    }
    fn outputs(&mut self, visit: &mut dyn FnMut(&mut dyn OutputPort)) {
        visit(self);
    }
}

impl<T: Data> Stage<T> for Output<T> {
    #[inline(always)]
    fn process(&mut self, record: T) -> Result<Flow, Failure> {
        Ok(self.push(record))
    }
}

impl<T: Data> OutputPort for Output<T> {
    fn is_blocked(&self) -> bool {
        self.edges.iter().any(|e| e.is_blocked())
    }
    fn flush(&mut self, now: Nanos, policy: FlushPolicy) -> Option<Nanos> {
        if !self.chunk.is_empty() {
            self.write_chunk();
        }
        self.edges.iter_mut().filter_map(|e| e.flush(now, policy)).min()
    }
    fn is_drained(&self) -> bool {
        self.chunk.is_empty() && self.edges.iter().all(|e| e.is_drained())
    }
    fn is_aligned_only(&self) -> bool {
        self.edges.iter().any(|e| e.is_aligned_only())
    }
    fn is_settled(&self) -> bool {
        // What is in the buffer goes to all edges.
        !self.is_aligned_only() || self.chunk.is_empty() && self.edges.iter().all(|e| e.is_settled())
    }
    fn can_announce(&self) -> bool {
        self.edges.iter().all(|e| e.can_announce())
    }
    fn announce(&mut self, mark: Mark) {
        if !self.chunk.is_empty() {
            self.write_chunk();
        }
        self.edges.iter_mut().for_each(|e| e.announce(mark));
    }
    fn unsent(&mut self) -> Outbox {
        assert!(self.chunk.is_empty(), "records entered an output between its announcement and its capture");
        self.edges.iter_mut().flat_map(|e| e.unsent()).collect()
    }
    fn records(&self) -> u64 {
        self.edges.first().map_or(0, |e| e.records()) + self.chunk.len() as u64
    }
}
