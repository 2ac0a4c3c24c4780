//! Random jobs: a small DAG, its channels, and the lanes that records travel in.
//!
//! A *lane* is one path from a source through the DAG up to one channel. Records of a lane are numbered without gaps, and
//! the numbers follow from the record that caused them: so each consumer can tell a lost, repeated or reordered record.

use super::CheckpointMode;
use crate::barrier::ChannelKind;
use std::time::Duration;

/// SplitMix64: every schedule is its seed.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn range(&mut self, from: usize, to: usize) -> usize {
        from + self.below(to - from + 1)
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

pub struct TaskPlan {
    pub inputs: Vec<usize>,
    pub outputs: Vec<usize>,
    /// Records that the task emits by itself; None unless it is a source.
    pub records: Option<u32>,
    pub fan_out: u32,
    /// Every record goes to every output, instead of to one of them.
    pub broadcast: bool,
    /// Lanes on each output that the task's own records start, by output.
    own_lanes: Vec<usize>,
}

pub struct ChannelPlan {
    pub from: usize,
    pub to: usize,
    pub kind: ChannelKind,
    pub ring_batches: usize,
    pub side_entries: usize,
}

pub struct LanePlan {
    pub channel: usize,
    /// The lane whose records cause this one's; None where the source itself does.
    parent: Option<usize>,
    /// Lanes on each output of the consumer that this one continues in.
    children: Vec<usize>,
}

pub struct Plan {
    pub tasks: Vec<TaskPlan>,
    pub channels: Vec<ChannelPlan>,
    pub lanes: Vec<LanePlan>,
    pub batch_records: usize,
    pub mode: CheckpointMode,
    pub concurrent: usize,
    /// Aligned snapshots wait for an empty outbox.
    pub drains: bool,
    pub savepoint_percent: usize,
    pub triggers: usize,
    pub aborts: usize,
    pub expiries: usize,
    pub crashes: usize,
    /// Sinks process nothing.
    pub sinks_frozen: bool,
}

pub const TIMEOUT: CheckpointMode = CheckpointMode::AlignedWithTimeout(Duration::from_millis(1));

impl Plan {
    pub fn random(rng: &mut Rng) -> Plan {
        let sources = rng.range(1, 3);
        let middles = rng.range(0, 3);
        let sinks = rng.range(1, 2);
        let count = sources + middles + sinks;
        let mut tasks: Vec<TaskPlan> = (0..count)
            .map(|task| TaskPlan {
                inputs: vec![],
                outputs: vec![],
                records: (task < sources).then(|| rng.range(0, 24) as u32),
                fan_out: if rng.chance(30) { rng.range(2, 3) as u32 } else { 1 },
                broadcast: rng.chance(20),
                own_lanes: vec![],
            })
            .collect();
        let mut channels = Vec::new();
        let aligned_only_percent = [0, 0, 30][rng.below(3)];
        let (ring_max, side_max) = (rng.range(1, 3), rng.range(1, 4));
        let mut connect = |tasks: &mut [TaskPlan], from: usize, to: usize, rng: &mut Rng| {
            tasks[from].outputs.push(channels.len());
            tasks[to].inputs.push(channels.len());
            let aligned_only = rng.chance(aligned_only_percent);
            channels.push(ChannelPlan {
                from,
                to,
                kind: if aligned_only { ChannelKind::AlignedOnly } else { ChannelKind::Exchange },
                ring_batches: rng.range(1, ring_max),
                side_entries: rng.range(1, side_max),
            });
        };
        // Every task but the sinks has an output, every task but the sources an input; a few more channels on top.
        for from in 0..count - sinks {
            let to = rng.range((from + 1).max(sources), count - 1);
            connect(&mut tasks, from, to, rng);
        }
        for to in sources..count {
            if tasks[to].inputs.is_empty() || rng.chance(30) {
                let from = rng.below(to.min(count - sinks));
                connect(&mut tasks, from, to, rng);
            }
        }
        let mode = [
            CheckpointMode::Aligned,
            CheckpointMode::Unaligned,
            CheckpointMode::Unaligned,
            TIMEOUT,
            TIMEOUT,
            CheckpointMode::AtLeastOnce,
        ][rng.below(6)];
        let mut plan = Plan {
            tasks,
            channels,
            lanes: vec![],
            batch_records: rng.range(1, 3),
            mode,
            concurrent: rng.range(1, 3),
            drains: rng.chance(30),
            savepoint_percent: [0, 30][rng.below(2)],
            triggers: rng.range(1, 8),
            aborts: rng.below(3),
            expiries: rng.below(16),
            crashes: rng.below(3),
            sinks_frozen: false,
        };
        plan.mark_delayed();
        plan.lay_lanes();
        plan
    }

    /// Makes some exchanges aligned-only.
    pub fn make_aligned_only(&mut self, rng: &mut Rng, percent: usize) {
        for channel in &mut self.channels {
            if rng.chance(percent) {
                channel.kind = ChannelKind::AlignedOnly;
            }
        }
        self.mark_delayed();
    }

    /// An exchange is delayed when aligned-only channels lie upstream of it.
    fn mark_delayed(&mut self) {
        for task in 0..self.tasks.len() {
            let kind = |&channel: &usize| self.channels[channel].kind;
            let delayed = self.tasks[task].inputs.iter().map(kind).any(|kind| kind != ChannelKind::Exchange);
            for &channel in &self.tasks[task].outputs {
                let kind = &mut self.channels[channel].kind;
                if delayed && *kind == ChannelKind::Exchange {
                    *kind = ChannelKind::DelayedExchange;
                }
            }
        }
    }

    fn lay_lanes(&mut self) {
        // Channels lead from lower to higher tasks, so parents come first.
        for task in 0..self.tasks.len() {
            let outputs = self.tasks[task].outputs.clone();
            if self.tasks[task].records.is_some() {
                self.tasks[task].own_lanes = outputs.iter().map(|&c| self.add_lane(c, None)).collect();
            }
            let incoming: Vec<usize> = (0..self.lanes.len())
                .filter(|&lane| self.channels[self.lanes[lane].channel].to == task)
                .collect();
            for lane in incoming {
                self.lanes[lane].children = outputs.iter().map(|&c| self.add_lane(c, Some(lane))).collect();
            }
        }
    }

    fn add_lane(&mut self, channel: usize, parent: Option<usize>) -> usize {
        self.lanes.push(LanePlan { channel, parent, children: vec![] });
        self.lanes.len() - 1
    }

    /// What a task emits for record `number` of `lane` (of its own, for a source): output, lane and number of each.
    pub fn emits(
        &self,
        task: usize,
        lane: Option<usize>,
        number: u32,
    ) -> impl Iterator<Item = (usize, usize, u32)> {
        let plan = &self.tasks[task];
        let lanes = lane.map_or(&plan.own_lanes, |lane| &self.lanes[lane].children);
        let outputs = plan.outputs.len() as u32;
        let numbers = number * plan.fan_out..(number + 1) * plan.fan_out;
        numbers.flat_map(move |number| {
            (0..outputs).filter_map(move |output| {
                if plan.broadcast {
                    Some((output as usize, lanes[output as usize], number))
                } else {
                    (number % outputs == output)
                        .then(|| (output as usize, lanes[output as usize], number / outputs))
                }
            })
        })
    }

    /// Records that have been emitted into a lane once its producer is in this state.
    pub fn emitted(&self, lane: usize, position: u32, next: &[u32]) -> u32 {
        let LanePlan { channel, parent, .. } = self.lanes[lane];
        let producer = &self.tasks[self.channels[channel].from];
        let caused = parent.map_or(position, |parent| next[parent]) * producer.fan_out;
        if producer.broadcast {
            return caused;
        }
        let outputs = producer.outputs.len() as u32;
        let output =
            producer.outputs.iter().position(|&c| c == channel).expect("lanes follow channels") as u32;
        (caused + outputs - 1 - output) / outputs
    }

    /// Records of each lane when everything has been processed.
    pub fn totals(&self) -> Vec<u32> {
        let mut totals = vec![0; self.lanes.len()];
        for lane in 0..self.lanes.len() {
            let producer = &self.tasks[self.channels[self.lanes[lane].channel].from];
            totals[lane] = self.emitted(lane, producer.records.unwrap_or(0), &totals);
        }
        totals
    }

    pub fn is_sink(&self, task: usize) -> bool {
        self.tasks[task].outputs.is_empty()
    }
}
