//! Configuration shared by the roles: one clap struct each, every field with its environment variable.

use std::fmt;
use std::str::FromStr;

/// How to reach Kafka and what its topics look like.
#[derive(Debug, Clone, clap::Args)]
pub struct KafkaConfig {
    /// Kafka brokers, as host:port, separated by commas.
    #[arg(long, env = "KAFKA_BOOTSTRAP", default_value = "127.0.0.1:19092")]
    pub kafka_bootstrap: String,
    /// Further librdkafka settings, as name=value, separated by commas (for example TLS and SASL).
    #[arg(
        long,
        env = "KAFKA_PROPERTIES",
        default_value = "",
        hide_env_values = true
    )]
    pub kafka_properties: Properties,
    /// Partitions of every topic that carries keys.
    #[arg(long, env = "TOPIC_PARTITIONS", default_value_t = 12, value_parser = clap::value_parser!(i32).range(1..))]
    pub topic_partitions: i32,
    /// Replicas of every topic that is created here.
    #[arg(long, env = "TOPIC_REPLICATION", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
    pub topic_replication: i32,
}

/// How to reach the schema registry.
#[derive(Debug, Clone, clap::Args)]
pub struct RegistryConfig {
    /// URL of the registry's Confluent API.
    #[arg(
        long,
        env = "SCHEMA_REGISTRY_URL",
        default_value = "http://127.0.0.1:18081/apis/ccompat/v7"
    )]
    pub schema_registry_url: String,
    /// `register` adds missing schemas at start (development); `lookup` demands that they are there (production).
    #[arg(
        long,
        env = "SCHEMA_REGISTRATION",
        default_value = "register",
        value_enum
    )]
    pub schema_registration: Registration,
}

/// What to do at start with a schema that the registry does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Registration {
    /// Register it.
    Register,
    /// Stop with its name.
    Lookup,
}

/// How to reach the journal's Postgres.
#[derive(Debug, Clone, clap::Args)]
pub struct JournalConfig {
    /// Postgres of the journal: a primary, never a replica.
    #[arg(
        long,
        env = "DATABASE_URL",
        hide_env_values = true,
        default_value = "postgres://postgres@127.0.0.1:15432/millrace"
    )]
    pub database_url: Secret,
}

/// How to reach the views' Postgres.
#[derive(Debug, Clone, clap::Args)]
pub struct ViewsConfig {
    /// Postgres of the views; may be the journal's.
    #[arg(
        long,
        env = "VIEWS_DATABASE_URL",
        hide_env_values = true,
        default_value = "postgres://postgres@127.0.0.1:15432/views"
    )]
    pub views_database_url: Secret,
}

/// A value that is never printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The value itself, for the one call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self(value.to_owned())
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        Ok(Self(value.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// librdkafka settings given as `name=value,name=value`; values are never printed.
#[derive(Clone, Default)]
pub struct Properties(pub Vec<(String, String)>);

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

impl FromStr for Properties {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
            .map(|pair| match pair.split_once('=') {
                Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
                // The text may hold a password, so it is not repeated here.
                None => Err("a setting has no '=': write name=value,name=value".to_owned()),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// Which handlers a process runs: all of them, unless one of these names some. Whatever a process leaves out another one must run, or it
/// stands still.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Chosen {
    /// Names of the processors that this process runs, separated by commas; all where there is none
    #[arg(long, env = "PROCESSORS", value_delimiter = ',')]
    pub processors: Vec<String>,
    /// Names of the views that this process keeps, separated by commas; all where there is none
    #[arg(long, env = "VIEWS", value_delimiter = ',')]
    pub views: Vec<String>,
    /// Names of the aggregates that this process takes commands from Kafka for, separated by commas; all where there is none
    #[arg(long, env = "INBOXES", value_delimiter = ',')]
    pub inboxes: Vec<String>,
}

/// A name that was chosen and is nobody's.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: nobody is named {name}; there are {known}")]
pub struct NobodyNamed {
    setting: &'static str,
    name: String,
    known: String,
}

/// Those whose names were chosen; all where none was.
pub fn chosen<T>(
    (setting, names): (&'static str, &[String]),
    all: Vec<T>,
    name_of: impl Fn(&T) -> &str,
) -> Result<Vec<T>, NobodyNamed> {
    let names: Vec<&String> = names.iter().filter(|name| !name.is_empty()).collect();
    let known: Vec<&str> = all.iter().map(&name_of).collect();
    if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(NobodyNamed {
            setting,
            name: (*name).clone(),
            known: known.join(", "),
        });
    }
    let is_chosen = |one: &T| names.is_empty() || names.iter().any(|name| *name == name_of(one));
    Ok(all.into_iter().filter(is_chosen).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_named_is_chosen_and_a_name_of_nobody_is_refused() {
        let choose = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            chosen(("VIEWS", &names), vec!["halls", "seats"], |one| *one)
                .map_err(|error| error.to_string())
        };
        assert_eq!(choose(&[]), Ok(vec!["halls", "seats"]));
        assert_eq!(choose(&[""]), Ok(vec!["halls", "seats"]));
        assert_eq!(choose(&["seats"]), Ok(vec!["seats"]));
        let refused = "VIEWS: nobody is named rows; there are halls, seats";
        assert_eq!(choose(&["seats", "rows"]), Err(refused.to_owned()));
    }
}
