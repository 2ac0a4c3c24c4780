//! smoke
use thalweg::connector::{CountingSink, GeneratorSource};
use thalweg::{Dataflow, Engine};
fn main() -> Result<(), thalweg::Error> {
    let n: u64 = std::env::args().nth(1).map_or(10_000_000, |s| s.parse().unwrap());
    let k: u64 = std::env::args().nth(2).map_or(1000, |s| s.parse().unwrap());
    let dir = std::env::args().nth(3);
    let sink = CountingSink::<(u64, u64)>::new();
    let flow = Dataflow::new("count");
    flow.source(
        "gen",
        GeneratorSource::new(Some(n), move |i| thalweg_storage::codec::hash_bytes(&i.to_le_bytes()) % k),
    )
    .key_by(|x: &u64| *x)
    .count("count")
    .sink("sink", sink.clone());
    let mut b = Engine::builder().workers(2);
    if let Some(dir) = dir {
        b = b
            .checkpoint_dir(dir)
            .checkpoint_interval("1s")
            .checkpoint_mode(thalweg::CheckpointMode::Unaligned);
    }
    let engine = b.build()?;
    println!("{:?} {:?}", engine.driver(), engine.fallback_reason());
    let t = std::time::Instant::now();
    let job = engine.run(flow)?;
    loop {
        if let Some(r) = job.wait_timeout(std::time::Duration::from_secs(5)) {
            r?;
            break;
        }
        for t in job.metrics().tasks {
            println!("{} {} in {} out {} {:?}", t.name, t.partition, t.records_in, t.records_out, t.time);
        }
        println!("{:?}", job.metrics().checkpoints);
    }
    let s = t.elapsed().as_secs_f64();
    println!("{} records {:.2}s {:.1} M/s", sink.count(), s, n as f64 / s / 1e6);
    println!("{:?}", job.metrics().checkpoints);
    Ok(())
}
