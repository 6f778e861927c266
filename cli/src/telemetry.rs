//! What every command does first: bounds, log, fail points.

use tracing_subscriber::EnvFilter;

/// Largest allocation that a decoded value may ask for; our largest event is below 1 MB.
const DECODE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bounds decoding and starts the log on standard error: RUST_LOG filters, LOG_FORMAT=json for machines.
pub(crate) fn start() {
    apache_avro::util::max_allocation_bytes(DECODE_BYTES_MAX);
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,librdkafka=warn,rdkafka=warn"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::env::var("LOG_FORMAT").is_ok_and(|format| format == "json") {
        log.json().init();
    } else {
        log.init();
    }
    #[cfg(feature = "failpoints")]
    match crate::failpoints::arm() {
        Ok(0) => {}
        Ok(points) => tracing::warn!(points, "fail points are armed"),
        Err(error) => panic!("{error}"),
    }
}
