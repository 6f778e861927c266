//! What every command does first: bounds, log, traces, fail points.

use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Largest allocation that a decoded value may ask for; our largest event is below 1 MB.
const DECODE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a command logs where RUST_LOG says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Voice {
    /// A role says what it does.
    Role,
    /// A command that ends by itself has its output; only what went wrong is logged beside it.
    Command,
}

impl Voice {
    fn filter(self) -> EnvFilter {
        let default = match self {
            Self::Role => "info,sqlx=warn,librdkafka=warn,rdkafka=warn,opentelemetry=warn",
            Self::Command => "warn",
        };
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default))
    }
}

/// Traces on their way out; what is collected yet leaves with [`Traces::end`].
#[derive(Default)]
pub(crate) struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Sends what is left, for as long as OTEL_EXPORTER_OTLP_TIMEOUT allows.
    pub(crate) async fn end(self) {
        if let Some(provider) = self.0 {
            // It blocks until its thread has sent.
            let ended = tokio::task::spawn_blocking(move || provider.shutdown()).await;
            if let Ok(Err(error)) = ended {
                tracing::warn!(%error, "the last traces were not exported");
            }
        }
    }
}

/// Bounds decoding and starts the log on standard error: RUST_LOG filters, LOG_FORMAT=json for machines.
///
/// A role exports traces where OTEL_EXPORTER_OTLP_ENDPOINT (or …_TRACES_ENDPOINT) is set, over HTTP in protobuf.
/// OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG and the rest are as in OpenTelemetry's specification.
pub(crate) fn start(voice: Voice) -> anyhow::Result<Traces> {
    apache_avro::util::max_allocation_bytes(DECODE_BYTES_MAX);
    let wanted = |name| std::env::var(name).is_ok_and(|value| !value.is_empty());
    let exports = voice == Voice::Role
        && (wanted("OTEL_EXPORTER_OTLP_ENDPOINT") || wanted("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"));
    let provider = exports.then(provider).transpose()?;
    tracing_subscriber::registry()
        .with(log(voice))
        .with(provider.as_ref().map(export))
        .init();
    if provider.is_some() {
        millrace::telemetry::trace::export();
    }
    #[cfg(feature = "failpoints")]
    match crate::failpoints::arm() {
        Ok(0) => {}
        Ok(points) => tracing::warn!(points, "fail points are armed"),
        Err(error) => panic!("{error}"),
    }
    Ok(Traces(provider))
}

fn log<S>(voice: Voice) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'s> LookupSpan<'s>,
{
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    // Each layer has a filter of its own: what is logged and what is traced do not depend on each other.
    match std::env::var("LOG_FORMAT").is_ok_and(|format| format == "json") {
        true => log.json().with_filter(voice.filter()).boxed(),
        false => log.with_filter(voice.filter()).boxed(),
    }
}

fn provider() -> anyhow::Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder()
        .with_http()
        .build()
        .context("OTEL_EXPORTER_OTLP_ENDPOINT")?;
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name("millrace");
    }
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build())
}

fn export<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: tracing::Subscriber + for<'s> LookupSpan<'s>,
{
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("millrace"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_level(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(|metadata| {
            metadata.is_span() && metadata.target() == millrace::telemetry::trace::TARGET
        }))
}
