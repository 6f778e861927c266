//! The declaration of a metric.

use std::fmt::Write;
use std::time::Duration;

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
        self.write_all(out, series);
    }

    /// Writes a gauge or a counter with all of its series.
    pub(super) fn write_all<T: AsRef<str>>(&self, out: &mut String, series: &[(Vec<T>, f64)]) {
        if series.is_empty() {
            return;
        }
        let name = self.name;
        self.write_head(out);
        for (values, figure) in series {
            let figure = match figure.is_infinite() {
                true => "+Inf".to_owned(),
                false => figure.to_string(),
            };
            write_text(
                out,
                format_args!("{name}{{{}}} {figure}\n", self.labels_of(values)),
            );
        }
        out.push('\n');
    }

    /// Writes a histogram with all of its series.
    pub(super) fn write_buckets<const N: usize>(
        &self,
        out: &mut String,
        bounds: &[f64; N],
        series: &[(Vec<String>, &Buckets<N>)],
    ) {
        if series.is_empty() {
            return;
        }
        let name = self.name;
        self.write_head(out);
        for (values, buckets) in series {
            let labels = self.labels_of(values);
            let mut below = 0;
            for (bound, count) in bounds.iter().zip(&buckets.counts) {
                below += count;
                write_text(
                    out,
                    format_args!("{name}_bucket{{{labels},le=\"{bound}\"}} {below}\n"),
                );
            }
            let (count, sum) = (buckets.count(), buckets.sum_s);
            write_text(
                out,
                format_args!(
                    "{name}_bucket{{{labels},le=\"+Inf\"}} {count}\n{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}\n"
                ),
            );
        }
        out.push('\n');
    }

    fn write_head(&self, out: &mut String) {
        let name = self.name;
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        write_text(
            out,
            format_args!("# HELP {name} {}\n# TYPE {name} {kind}\n", self.help),
        );
    }

    fn labels_of<T: AsRef<str>>(&self, values: &[T]) -> String {
        let labels: Vec<String> = self
            .labels
            .iter()
            .zip(values)
            .map(|(label, value)| format!("{label}=\"{}\"", escaped(value.as_ref())))
            .collect();
        labels.join(",")
    }
}

/// Times counted by upper bounds.
#[derive(Debug, Clone)]
pub(super) struct Buckets<const N: usize> {
    /// Of each bound, those that are above the one before it.
    counts: [u64; N],
    above: u64,
    sum_s: f64,
}

impl<const N: usize> Default for Buckets<N> {
    fn default() -> Self {
        Self {
            counts: [0; N],
            above: 0,
            sum_s: 0.0,
        }
    }
}

impl<const N: usize> Buckets<N> {
    pub(super) fn record(&mut self, bounds: &[f64; N], time: Duration) {
        let seconds = time.as_secs_f64();
        self.sum_s += seconds;
        match bounds.iter().position(|bound| seconds <= *bound) {
            Some(bucket) => self.counts[bucket] += 1,
            None => self.above += 1,
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.above += other.above;
        self.sum_s += other.sum_s;
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.above
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
    fn the_buckets_of_a_histogram_count_upwards_and_end_with_all() {
        const METRIC: Metric = Metric::histogram("wait_seconds", Unit::Seconds, &["who"], "Wait.");
        let bounds = [0.1, 1.0];
        let mut buckets = Buckets::default();
        for seconds in [0.05, 0.1, 0.5, 7.0] {
            buckets.record(&bounds, Duration::from_secs_f64(seconds));
        }
        let mut out = String::new();
        METRIC.write_buckets(&mut out, &bounds, &[(vec!["a".to_owned()], &buckets)]);
        assert_eq!(
            out,
            "# HELP wait_seconds Wait.\n# TYPE wait_seconds histogram\n\
             wait_seconds_bucket{who=\"a\",le=\"0.1\"} 2\nwait_seconds_bucket{who=\"a\",le=\"1\"} 3\n\
             wait_seconds_bucket{who=\"a\",le=\"+Inf\"} 4\nwait_seconds_sum{who=\"a\"} 7.65\n\
             wait_seconds_count{who=\"a\"} 4\n\n"
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
