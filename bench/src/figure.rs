//! What a run of a measure found, and what several runs come to.

use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::cpu::CpuPerEvent;

/// One figure of one run.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) name: String,
    /// Such as `events/s`; what is counted in `ms`, `s` or `MB` should be small, the rest large.
    pub(crate) unit: &'static str,
    pub(crate) ours: f64,
    /// What the servers do without us, in the same run.
    pub(crate) ceiling: Option<f64>,
    pub(crate) cpu: Option<CpuPerEvent>,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, ours: f64) -> Self {
        Self {
            name: name.into(),
            unit,
            ours,
            ceiling: None,
            cpu: None,
        }
    }

    pub(crate) fn beside(self, ceiling: f64) -> Self {
        Self {
            ceiling: Some(ceiling),
            ..self
        }
    }

    pub(crate) fn costing(self, cpu: CpuPerEvent) -> Self {
        Self {
            cpu: Some(cpu),
            ..self
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.name, number(self.ours), self.unit)?;
        if let Some(ceiling) = self.ceiling {
            write!(f, ", raw {}", number(ceiling))?;
        }
        if let Some(cpu) = self.cpu {
            write!(f, ", CPU µs/event {cpu}")?;
        }
        Ok(())
    }
}

/// Least, middle and greatest of several runs.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    /// `None` of nothing.
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        Some(Self {
            min: *values.first()?,
            median: values[values.len() / 2],
            max: *values.last()?,
        })
    }
}

/// What the project wants of a figure on a machine of two cores that also runs the servers and the load.
const AIMS: [(&str, f64); 14] = [
    ("commands-64", 50_000.0),
    ("http-64", 15_000.0),
    ("relay", 250_000.0),
    ("fold", 150_000.0),
    ("rebuild", 250_000.0),
    ("in-kafka-100-p50", 5.0),
    ("visible-100-p50", 10.0),
    ("visible-100-p99", 30.0),
    ("memory-producer", 100.0),
    ("memory-projections", 100.0),
    ("memory-processors", 100.0),
    ("start-producer", 1.0),
    ("start-processors", 1.0),
    ("start-projections", 1.0),
];

/// All runs of one figure.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    name: String,
    unit: &'static str,
    ours: Spread,
    ceiling: Option<Spread>,
    /// Median of the runs' own ratios: ours and the ceiling of one run met the same machine.
    ratio: Option<f64>,
    aim: Option<f64>,
    reached: Option<bool>,
    /// CPU time of the median run.
    cpu: Option<CpuPerEvent>,
    runs: usize,
}

impl Row {
    /// Rows of the figures of several runs, in the order in which they first came.
    pub(crate) fn all(figures: &[Figure]) -> Vec<Self> {
        let mut names: Vec<&str> = Vec::new();
        for figure in figures {
            if !names.contains(&figure.name.as_str()) {
                names.push(&figure.name);
            }
        }
        let of = |name: &str| {
            let of_name: Vec<&Figure> = figures.iter().filter(|one| one.name == name).collect();
            Self::of(&of_name)
        };
        names.into_iter().filter_map(of).collect()
    }

    fn of(runs: &[&Figure]) -> Option<Self> {
        let ours = Spread::of(runs.iter().map(|run| run.ours).collect())?;
        let middle = runs.iter().find(|run| run.ours == ours.median)?;
        let is_cost = matches!(middle.unit, "ms" | "s" | "MB");
        let aims = AIMS.iter().find(|(name, _)| *name == middle.name);
        let aim = aims.map(|(_, aim)| *aim);
        let ratios = runs.iter().filter_map(|run| Some(run.ours / run.ceiling?));
        Some(Self {
            name: middle.name.clone(),
            unit: middle.unit,
            ours,
            ceiling: Spread::of(runs.iter().filter_map(|run| run.ceiling).collect()),
            ratio: Spread::of(ratios.collect()).map(|ratio| ratio.median),
            aim,
            reached: aim.map(|aim| (ours.median <= aim) == is_cost || ours.median == aim),
            cpu: middle.cpu,
            runs: runs.len(),
        })
    }
}

/// The rows as a Markdown table.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| measure | unit | min | median | max | raw ceiling | ratio | aim | CPU µs/event: load, roles, Postgres, Kafka |\n\
         |---|---|---:|---:|---:|---:|---:|---|---|\n",
    );
    for row in rows {
        let ceiling = row.ceiling.map_or(String::new(), |all| number(all.median));
        let ratio = row
            .ratio
            .map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let aim = match (row.aim, row.reached) {
            (Some(aim), Some(true)) => format!("{} reached", number(aim)),
            (Some(aim), _) => format!("{} **missed**", number(aim)),
            (None, _) => String::new(),
        };
        let cpu = row.cpu.map_or(String::new(), |cpu| cpu.to_string());
        let _ = writeln!(
            text,
            "| {} | {} | {} | **{}** | {} | {ceiling} | {ratio} | {aim} | {cpu} |",
            row.name,
            row.unit,
            number(row.ours.min),
            number(row.ours.median),
            number(row.ours.max),
        );
    }
    text
}

/// Three digits that count, thousands apart.
fn number(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The value below which this share of the sorted values lies.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    if sorted.is_empty() {
        return f64::NAN;
    }
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_come_to_their_least_middle_and_greatest() {
        let runs: Vec<Figure> = [3.0, 1.0, 2.0]
            .map(|ours| Figure::new("relay", "events/s", ours).beside(4.0))
            .to_vec();
        let rows = Row::all(&runs);
        assert_eq!(rows.len(), 1);
        let ours = rows[0].ours;
        assert_eq!((ours.min, ours.median, ours.max), (1.0, 2.0, 3.0));
        assert_eq!(rows[0].ratio, Some(0.5));
        assert_eq!(rows[0].reached, Some(false));
    }

    #[test]
    fn a_cost_reaches_its_aim_from_below_and_a_rate_from_above() {
        let reached = |name, unit, ours| Row::all(&[Figure::new(name, unit, ours)])[0].reached;
        assert_eq!(reached("visible-100-p99", "ms", 29.0), Some(true));
        assert_eq!(reached("visible-100-p99", "ms", 31.0), Some(false));
        assert_eq!(reached("relay", "events/s", 260_000.0), Some(true));
        assert_eq!(reached("relay", "events/s", 240_000.0), Some(false));
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(number(1_234_567.4), "1,234,567");
        assert_eq!(number(123.4), "123");
        assert_eq!(number(4.321), "4.32");
    }
}
