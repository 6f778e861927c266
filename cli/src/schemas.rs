//! `millrace schemas`: our schema files and the registry.

use std::process::ExitCode;

use millrace::codec::Schema;
use millrace::config::{Registration, RegistryConfig};
use millrace::registry::Registry;
use serde_json::json;

/// Compare our schema files with the registry, register them, list them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    registry: RegistryConfig,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Compare all versions with each other and with the registry; register nothing.
    Check,
    /// Register what is missing.
    Register,
    /// Every subject of ours with the versions that the registry has.
    List,
}

pub(crate) async fn run(mut args: Args) -> anyhow::Result<ExitCode> {
    if matches!(args.action, Action::Register) {
        args.registry.schema_registration = Registration::Register;
    }
    let registry = Registry::unchecked(&args.registry, schemas::all(), None)?;
    match args.action {
        Action::Check => {
            registry.check().await?;
            let count: usize = schemas::all().iter().map(|set| set.schemas.len()).sum();
            let text = match args.json {
                true => json!({"compatible": true, "schemas": count}).to_string(),
                false => {
                    format!("{count} schemas, compatible with each other and with the registry")
                }
            };
            crate::output::line(&text)?;
        }
        Action::Register => {
            for one in registry.register().await? {
                let version = one.schema.version;
                let text = match args.json {
                    true => {
                        json!({"subject": one.subject, "version": version, "id": one.schema_id})
                            .to_string()
                    }
                    false => format!("{} version {version}: id {}", one.subject, one.schema_id),
                };
                crate::output::line(&text)?;
            }
        }
        Action::List => list(&registry, args.json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(registry: &Registry, json: bool) -> anyhow::Result<()> {
    let mut subjects = Vec::new();
    for set in schemas::all() {
        for schema in set.schemas {
            let parsed = Schema::parse_str(schema.json)?;
            let subject = set.subject(&parsed);
            match subjects.last_mut() {
                Some((last, files, _)) if *last == subject => *files += 1,
                _ => subjects.push((subject, 1, schema.retired)),
            }
        }
    }
    let mut rows = Vec::new();
    for (subject, files, retired) in subjects {
        let known = registry.versions(&subject).await?;
        if json {
            let versions: Vec<_> = known
                .iter()
                .map(|one| json!({"version": one.number, "id": one.id}))
                .collect();
            let line = json!({"subject": subject, "files": files, "retired": retired, "registered": versions});
            crate::output::line(&line.to_string())?;
        }
        let registered: Vec<_> = known
            .iter()
            .map(|one| format!("{} (id {})", one.number, one.id))
            .collect();
        let note = if retired { "retired" } else { "" };
        rows.push(vec![
            subject,
            files.to_string(),
            registered.join(", "),
            note.to_owned(),
        ]);
    }
    if json {
        return Ok(());
    }
    crate::output::table(&["SUBJECT", "FILES", "REGISTERED", ""], &rows)
}
