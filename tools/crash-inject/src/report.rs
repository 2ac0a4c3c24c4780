//! What a campaign found: one line for people, JSON for programs.

use crate::campaign::{Campaign, PointTally};
use crate::contract::Audit;
use serde::Serialize;
use std::collections::BTreeMap;

/// The report as JSON.
#[derive(Serialize)]
pub struct Report<'a> {
    points: &'a BTreeMap<String, PointTally>,
    #[serde(flatten)]
    audit: Audit,
    seed: u64,
    kills: u64,
    restores: u64,
    directories: u64,
}

impl<'a> Report<'a> {
    /// The report of a campaign.
    pub fn new(campaign: &'a Campaign) -> Self {
        let Campaign { points, audit, seed, kills, restores, cycles, .. } = campaign;
        Report {
            points,
            audit: *audit,
            seed: *seed,
            kills: *kills,
            restores: *restores,
            directories: *cycles,
        }
    }
}

/// The line for people.
pub fn line(campaign: &Campaign) -> String {
    let Audit { lost, duplicated, out_of_order, corrupt } = campaign.audit;
    format!(
        "{} kills, {} restores, {lost} lost, {duplicated} duplicated, {out_of_order} out of order, {corrupt} corrupt",
        campaign.kills, campaign.restores
    )
}
