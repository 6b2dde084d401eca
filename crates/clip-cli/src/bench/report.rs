//! What was measured, as a table and as JSON.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use clip_metrics::gibibytes;
use clip_model::Precision;
use serde_json::{Value, json};

use super::{
    Args, machine,
    stats::Spread,
    work::{Benchmark, Limit},
};
use crate::output;

/// What one side did.
#[derive(Clone, Debug, Default)]
pub(super) struct SideResult {
    pub(super) versions: BTreeMap<String, String>,
    /// Of one of what is counted.
    pub(super) flop: Option<f64>,
    /// Of each round: how many a second.
    pub(super) rates: Vec<f64>,
    /// Of the host.
    pub(super) peak_bytes: Option<u64>,
    /// Of NVIDIA's GPUs, if it is there that it computes.
    pub(super) gpu_bytes: Option<u64>,
}

impl SideResult {
    /// Where the work is done.
    fn memory(&self) -> String {
        let bytes = self.gpu_bytes.or(self.peak_bytes);
        bytes.map_or_else(String::new, gibibytes)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) ours: SideResult,
    pub(super) peer: Option<SideResult>,
}

#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Measured(Measured),
    Skipped(String),
    Failed(String),
}

pub(super) struct Report {
    head: Value,
    precision: Precision,
    done: Vec<(Benchmark, Outcome)>,
}

/// What stands in a row, in numbers.
struct Row<'a> {
    ours: Spread,
    peer: Option<Spread>,
    /// Ours by the peer's: above 1, ours is faster.
    ratio: Option<Spread>,
    /// The machine's rate, and the share of it that ours comes to.
    limit: Option<(Limit, f64, f64)>,
    measured: &'a Measured,
}

impl Report {
    pub(super) fn new(args: &Args, threads: usize, peer_device: &str) -> Self {
        let command: Vec<String> = std::env::args_os()
            .skip(1)
            .map(|arg| arg.to_string_lossy().into_owned())
            .collect();
        let head = json!({
            "command": format!("clip {}", command.join(" ")),
            // `cargo xtask bench` knows it.
            "commit": std::env::var("CLIP_BENCH_COMMIT").ok(),
            "machine": machine::describe(),
            "threads": threads,
            "precision": args.precision,
            "quick": args.quick,
            "peer_device": args.peer.as_ref().map(|_| peer_device),
            "load_before": machine::load(),
        });
        Self {
            head,
            precision: args.precision,
            done: Vec::new(),
        }
    }

    /// Takes up an outcome; returns it as a line, unless it is a failure.
    pub(super) fn add(&mut self, benchmark: Benchmark, outcome: Outcome) -> Option<String> {
        self.done.push((benchmark, outcome));
        let (benchmark, outcome) = self.done.last()?;
        Some(match outcome {
            Outcome::Skipped(reason) => format!("skipped: {reason}"),
            Outcome::Failed(_) => return None,
            Outcome::Measured(measured) => {
                let row = self.row(benchmark, measured)?;
                let unit = benchmark.work.unit();
                let peer = row.peer.zip(row.ratio).map(|(peer, ratio)| {
                    let (peer, ratio) = (rate(peer.median, unit), ratio.median);
                    format!(", peer {peer}, {ratio:.2}x")
                });
                let ours = rate(row.ours.median, unit);
                format!("{ours}{}", peer.unwrap_or_default())
            }
        })
    }

    pub(super) fn failed(&self) -> usize {
        let failed = |(_, outcome): &&(Benchmark, Outcome)| matches!(outcome, Outcome::Failed(_));
        self.done.iter().filter(failed).count()
    }

    fn row<'a>(&self, benchmark: &Benchmark, measured: &'a Measured) -> Option<Row<'a>> {
        let ours = Spread::of(&measured.ours.rates)?;
        let peer = measured.peer.as_ref();
        let limit = benchmark.work.limit(self.precision).and_then(|limit| {
            let most = self.measured_limit(limit)?;
            let each = match limit {
                Limit::MatMul => measured.ours.flop?,
                Limit::Disk => 1.0,
            };
            Some((limit, most, ours.median * each / most))
        });
        Some(Row {
            ours,
            peer: peer.and_then(|peer| Spread::of(&peer.rates)),
            ratio: peer.and_then(|peer| Spread::of_ratios(&measured.ours.rates, &peer.rates)),
            limit,
            measured,
        })
    }

    /// What the faster side reached: that much the machine can do.
    fn measured_limit(&self, limit: Limit) -> Option<f64> {
        let found = self
            .done
            .iter()
            .find(|(benchmark, _)| benchmark.name == limit.benchmark());
        let Some((_, Outcome::Measured(Measured { ours, peer }))) = found else {
            return None;
        };
        [Some(ours), peer.as_ref()]
            .into_iter()
            .flatten()
            .filter_map(|side| Some(Spread::of(&side.rates)?.median))
            .max_by(f64::total_cmp)
    }

    pub(super) fn print(&self) -> Result<()> {
        let mut rows = vec![
            [
                "work", "ours", "peer", "ratio", "limit", "share", "memory", "peer's",
            ]
            .map(str::to_owned),
        ];
        for (benchmark, outcome) in &self.done {
            let mut cells = [const { String::new() }; 8];
            cells[0] = benchmark.work.to_string();
            match outcome {
                Outcome::Skipped(reason) => cells[1] = format!("skipped: {reason}"),
                Outcome::Failed(_) => "failed".clone_into(&mut cells[1]),
                Outcome::Measured(measured) => {
                    if let Some(row) = self.row(benchmark, measured) {
                        row.fill(&mut cells, benchmark.work.unit());
                    }
                }
            }
            rows.push(cells);
        }
        output::table(&rows)
    }

    /// Writes all of it.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let mut report = self.head.clone();
        let mut versions = BTreeMap::new();
        for (_, outcome) in &self.done {
            if let Outcome::Measured(Measured { ours, peer }) = outcome {
                versions.extend(ours.versions.clone());
                versions.extend(peer.iter().flat_map(|peer| peer.versions.clone()));
            }
        }
        report["versions"] = json!(versions);
        report["load_after"] = json!(machine::load());
        let benchmarks = self.done.iter().map(|(benchmark, outcome)| {
            let mut object = json!({ "name": benchmark.name, "what": benchmark.work.to_string() });
            match outcome {
                Outcome::Skipped(reason) => object["skipped"] = json!(reason),
                Outcome::Failed(reason) => object["failed"] = json!(reason),
                Outcome::Measured(measured) => {
                    object["unit"] = json!(format!("{}/s", benchmark.work.unit()));
                    if let Some(row) = self.row(benchmark, measured) {
                        row.tell(&mut object);
                    }
                }
            }
            object
        });
        report["benchmarks"] = benchmarks.collect();
        let text = format!("{report:#}\n");
        Ok(clip_files::replace(path, text.as_bytes())?)
    }
}

impl Row<'_> {
    fn fill(&self, cells: &mut [String; 8], unit: &str) {
        let [_, ours, peer, ratio, limit, share, memory, peer_memory] = cells;
        *ours = rate(self.ours.median, unit);
        if let Some(found) = self.peer {
            *peer = rate(found.median, unit);
        }
        if let Some(Spread { median, min, max }) = self.ratio {
            *ratio = format!("{median:.2}x ({min:.2}-{max:.2})");
        }
        if let Some((kind, most, part)) = self.limit {
            let unit = match kind {
                Limit::MatMul => "FLOP",
                Limit::Disk => "bytes",
            };
            *limit = rate(most, unit);
            *share = format!("{:.0}%", 100.0 * part);
        }
        *memory = self.measured.ours.memory();
        let peer = self.measured.peer.as_ref();
        *peer_memory = peer.map_or_else(String::new, SideResult::memory);
    }

    fn tell(&self, object: &mut Value) {
        let side = |spread: Spread, side: &SideResult| {
            json!({
                "median": spread.median,
                "min": spread.min,
                "max": spread.max,
                "rounds": side.rates,
                "peak_bytes": side.peak_bytes,
                "gpu_bytes": side.gpu_bytes,
            })
        };
        object["ours"] = side(self.ours, &self.measured.ours);
        object["peer"] = match (self.peer, &self.measured.peer) {
            (Some(spread), Some(peer)) => side(spread, peer),
            _ => Value::Null,
        };
        object["ratio"] = json!(self.ratio);
        object["flop"] = json!(self.measured.ours.flop);
        object["limit"] = self.limit.map_or(
            Value::Null,
            |(kind, most, share)| json!({ "name": kind.benchmark(), "rate": most, "share": share }),
        );
    }
}

/// A rate in a unit that people read, to three digits.
fn rate(value: f64, unit: &str) -> String {
    let (value, unit) = match unit {
        "bytes" => (value / 1e6, "MB"),
        "FLOP" => (value / 1e9, "GFLOP"),
        unit => (value, unit),
    };
    let digits = (2 - value.max(1e-9).log10().floor() as i32).max(0) as usize;
    format!("{value:.digits$} {unit}/s")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::work::{self, Work};

    fn side(rates: &[f64], flop: Option<f64>) -> SideResult {
        SideResult {
            rates: rates.to_vec(),
            flop,
            ..SideResult::default()
        }
    }

    #[test]
    fn rates_have_three_digits() {
        assert_eq!(rate(4.5678, "images"), "4.57 images/s");
        assert_eq!(rate(65_432.1, "captions"), "65432 captions/s");
        assert_eq!(rate(1.5e9, "bytes"), "1500 MB/s");
        assert_eq!(rate(5.82e10, "FLOP"), "58.2 GFLOP/s");
    }

    #[test]
    fn a_share_is_of_what_the_faster_side_reached() {
        let mut report = Report {
            head: Value::Null,
            precision: Precision::F32,
            done: Vec::new(),
        };
        let all = work::all();
        let of = |name: &str| all.iter().find(|one| one.name == name).unwrap().clone();
        report.add(
            of("matmul"),
            Outcome::Measured(Measured {
                ours: side(&[50.0, 60.0, 40.0], None),
                peer: Some(side(&[100.0, 90.0, 110.0], None)),
            }),
        );
        let step = of("train-mini");
        assert!(matches!(step.work, Work::TrainStep { .. }));
        let measured = Measured {
            ours: side(&[4.0, 8.0], Some(10.0)),
            peer: Some(side(&[2.0, 2.0], None)),
        };
        let row = report.row(&step, &measured).unwrap();
        assert_eq!(row.limit, Some((Limit::MatMul, 100.0, 0.6)));
        assert!((row.ratio.unwrap().median - 3.0).abs() < 1e-12);
        let line = report.add(step, Outcome::Measured(measured)).unwrap();
        assert_eq!(line, "6.00 images/s, peer 2.00 images/s, 3.00x");
        report.add(of("disk"), Outcome::Failed("full".to_owned()));
        assert_eq!(report.failed(), 1);

        // In another precision, the product measured is none that the loss does.
        let measured = Measured {
            ours: side(&[4.0], Some(10.0)),
            peer: None,
        };
        let limit = |report: &Report| report.row(&of("loss-1024"), &measured).unwrap().limit;
        assert_eq!(limit(&report), Some((Limit::MatMul, 100.0, 0.4)));
        report.precision = Precision::Bf16;
        assert_eq!(limit(&report), None);
    }
}
