//! The declaration of a metric.

use std::fmt::Write;

use metrics::Unit;

/// What kind of figure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counted in buckets: `_bucket`, `_sum` and `_count`.
    Histogram,
}

/// A metric: its name, which ends in its unit, and what it says.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Such as `millrace_relay_events_total`.
    pub name: &'static str,
    /// What kind of figure it is.
    pub kind: Kind,
    /// What it is counted in.
    pub unit: Unit,
    /// Names of its labels; their values are bounded by the code and the configuration.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

impl Metric {
    pub(super) const fn counter(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self::new(name, (Kind::Counter, Unit::Count), labels, help)
    }

    pub(super) const fn gauge(
        name: &'static str,
        unit: Unit,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self::new(name, (Kind::Gauge, unit), labels, help)
    }

    pub(super) const fn histogram(
        name: &'static str,
        unit: Unit,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self::new(name, (Kind::Histogram, unit), labels, help)
    }

    const fn new(
        name: &'static str,
        (kind, unit): (Kind, Unit),
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            unit,
            labels,
            help,
        }
    }

    /// The series' names as a query writes them.
    pub fn series(&self) -> Vec<String> {
        match self.kind {
            Kind::Counter | Kind::Gauge => vec![self.name.to_owned()],
            Kind::Histogram => ["_bucket", "_sum", "_count"]
                .map(|part| format!("{}{part}", self.name))
                .to_vec(),
        }
    }

    pub(super) fn describe(&self) {
        match self.kind {
            Kind::Counter => metrics::describe_counter!(self.name, self.unit, self.help),
            Kind::Gauge => metrics::describe_gauge!(self.name, self.unit, self.help),
            Kind::Histogram => metrics::describe_histogram!(self.name, self.unit, self.help),
        }
    }

    /// Writes a gauge whose series are those that there are now.
    pub(super) fn write(&self, out: &mut String, series: &[(Vec<&str>, f64)]) {
        if series.is_empty() {
            return;
        }
        let name = self.name;
        write_text(
            out,
            format_args!("# HELP {name} {}\n# TYPE {name} gauge\n", self.help),
        );
        for (values, figure) in series {
            let labels: Vec<String> = self
                .labels
                .iter()
                .zip(values)
                .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
                .collect();
            let figure = match figure.is_infinite() {
                true => "+Inf".to_owned(),
                false => figure.to_string(),
            };
            write_text(
                out,
                format_args!("{name}{{{}}} {figure}\n", labels.join(",")),
            );
        }
        out.push('\n');
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn write_text(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text)
        .expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_is_written_with_its_labels_escaped() {
        const METRIC: Metric =
            Metric::gauge("counter_age_seconds", Unit::Seconds, &["who"], "Age.");
        let mut out = String::new();
        METRIC.write(
            &mut out,
            &[(vec!["a \"b\"\\\n"], f64::INFINITY), (vec!["c"], 1.5)],
        );
        assert_eq!(
            out,
            "# HELP counter_age_seconds Age.\n# TYPE counter_age_seconds gauge\n\
             counter_age_seconds{who=\"a \\\"b\\\"\\\\\\n\"} +Inf\ncounter_age_seconds{who=\"c\"} 1.5\n\n"
        );
    }

    #[test]
    fn every_metric_is_declared_once_and_named_after_its_unit() {
        let mut seen = std::collections::BTreeSet::new();
        for metric in super::super::declared() {
            let name = metric.name;
            assert!(seen.insert(name), "{name} is declared twice");
            assert!(name.starts_with("millrace_"), "{name}");
            assert_eq!(
                name.ends_with("_total"),
                metric.kind == Kind::Counter,
                "{name}"
            );
            assert_eq!(
                name.ends_with("_seconds"),
                metric.unit == Unit::Seconds,
                "{name}"
            );
            assert_eq!(
                name.ends_with("_bytes"),
                metric.unit == Unit::Bytes,
                "{name}"
            );
            assert!(metric.help.ends_with('.'), "{name}");
        }
    }
}
