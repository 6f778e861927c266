//! `millrace send`: one command a line, many in flight, those of one aggregate in order.
//!
//! A thread reads lines and hands each to the lane that its aggregate id hashes to. A lane sends one command
//! after another and reports each answer to the recorder, the only writer of the acks and rejects files.
//!
//! Invariant: commands of one aggregate are sent in the order of their lines, the next only after the one
//! before was answered for good. The schedule that would break it: line 2 overtakes line 1 while that one waits
//! to be tried again. One lane an aggregate and one request a lane exclude it.

mod http;
mod lanes;
mod line;
mod record;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use self::http::Server;
use self::line::{Plain, Shape};
use self::record::{Recorder, Summary};

/// Send commands from a file, one NDJSON line each.
///
/// A line is {"aggregate","id","type","data"} with optional command_id and expected_version, or, with --as and
/// --id, a plain record. Ids are strings or integers. Blank lines are passed over. A file can be sent again:
/// ids are derived from what the lines say, so nothing happens twice.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// File of NDJSON lines, or - for standard input.
    file: PathBuf,
    /// Lines are plain records: the data of this command, such as order.PlaceOrder.
    #[arg(long = "as", value_name = "AGGREGATE.TYPE", requires = "id")]
    plain: Option<String>,
    /// Field of a plain record that holds the aggregate id.
    #[arg(long, value_name = "FIELD", requires = "plain")]
    id: Option<String>,
    /// Part of every derived id: another name sends the same lines as new commands.
    #[arg(long, value_name = "NAME", default_value = "")]
    batch: String,
    /// Refused lines go here, overwriting it [default: FILE.rejects.ndjson].
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Accepted lines go here, overwriting it.
    #[arg(long, value_name = "FILE")]
    acks: Option<PathBuf>,
    /// Requests in flight.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    concurrency: u16,
    /// How long to try again while the server is away, in seconds (60, 60s or 2m).
    #[arg(long, default_value = "60s", value_parser = parse_wait)]
    wait: Duration,
    /// The producer.
    #[arg(long, env = "MILLRACE_URL", default_value = crate::MILLRACE_URL)]
    url: String,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

fn parse_wait(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .filter(|seconds| *seconds <= 86_400)
        .map(Duration::from_secs)
        .ok_or_else(|| "write seconds or minutes, such as 60s or 2m, at most a day".to_owned())
}

/// Sends the file and prints what became of it.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let stdin = args.file == Path::new("-");
    let rejects = args.rejects.clone().unwrap_or_else(|| match stdin {
        true => PathBuf::from("stdin.rejects.ndjson"),
        false => beside(&args.file, ".rejects.ndjson"),
    });
    if let Err(wrong) = check_files(&args, &rejects, stdin) {
        eprintln!("millrace send: {wrong}");
        return Ok(ExitCode::from(2));
    }
    let plain = match plain(&args) {
        Ok(plain) => plain,
        Err(wrong) => {
            eprintln!("millrace send: {wrong}");
            return Ok(ExitCode::from(2));
        }
    };
    let shape = Shape {
        plain,
        batch: args.batch.clone(),
        secret_fields: crate::command::secret_fields,
    };
    let input = lanes::Input::open((!stdin).then_some(args.file.as_path()))?;
    let server = Server::new(&args.url, args.concurrency.into(), args.wait)?;
    let recorder = Recorder::create(&rejects, args.acks.as_deref())?;
    let began = Instant::now();
    let lanes = usize::from(args.concurrency);
    let mut summary = lanes::send(input, shape, server, recorder, lanes).await?;
    summary.seconds = began.elapsed().as_secs_f64();
    print(&summary, args.json)?;
    let whole = summary.refused == 0 && summary.stopped.is_none();
    Ok(if whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn plain(args: &Args) -> Result<Option<Plain>, String> {
    let (Some(plain), Some(id_field)) = (&args.plain, &args.id) else {
        return Ok(None);
    };
    match plain.split_once('.') {
        Some((aggregate, command_type)) if !aggregate.is_empty() && !command_type.is_empty() => {
            Ok(Some(Plain {
                aggregate: aggregate.to_owned(),
                command_type: command_type.to_owned(),
                id_field: id_field.clone(),
            }))
        }
        _ => Err(format!(
            "--as {plain}: write AGGREGATE.TYPE, such as order.PlaceOrder"
        )),
    }
}

/// Creating an output empties it, so it must be neither the input nor the other output.
fn check_files(args: &Args, rejects: &Path, stdin: bool) -> Result<(), String> {
    let acks = args.acks.as_deref();
    let outputs = [("rejects", Some(rejects)), ("acks", acks)];
    for (what, output) in outputs {
        if !stdin && output.is_some_and(|output| same_file(&args.file, output)) {
            return Err(format!(
                "the {what} file is the input itself, {}: name another with --{what}",
                args.file.display()
            ));
        }
    }
    // A device may well be both; only a regular file would be written over itself.
    if acks.is_some_and(|acks| acks == rejects || (acks.is_file() && same_file(acks, rejects))) {
        return Err("--acks and --rejects name the same file".to_owned());
    }
    Ok(())
}

fn same_file(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

fn print(summary: &Summary, json: bool) -> anyhow::Result<()> {
    if let Some(stopped) = &summary.stopped {
        eprintln!(
            "millrace send: stopped: {stopped}\nevery line up to {} is settled; send the file again to go on, nothing happens twice",
            summary.settled_to
        );
    }
    if json {
        return crate::output::line(&serde_json::to_string(summary)?);
    }
    let sent = summary.accepted + summary.repeated + summary.refused;
    crate::output::line(&format!(
        "accepted {}, repeated {}, refused {} ({sent} in {:.1} s)",
        summary.accepted, summary.repeated, summary.refused, summary.seconds
    ))?;
    let mut reasons: Vec<_> = summary.reasons.iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (reason, count) in reasons.iter().take(10) {
        crate::output::line(&format!("  {count:>7}  {reason}"))?;
    }
    if reasons.len() > 10 {
        crate::output::line(&format!("  and {} reasons more", reasons.len() - 10))?;
    }
    if summary.refused > 0 {
        crate::output::line(&format!("refused lines: {}", summary.rejects.display()))?;
    }
    Ok(())
}

/// A bar where somebody watches, nothing otherwise.
fn progress(bytes: Option<u64>) -> indicatif::ProgressBar {
    if !std::io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let bar = bytes.map_or_else(indicatif::ProgressBar::new_spinner, |bytes| {
        indicatif::ProgressBar::new(bytes)
    });
    let style = match bytes {
        Some(_) => "{bar:40} {bytes}/{total_bytes} {msg} {eta}",
        None => "{spinner} {bytes} {msg}",
    };
    bar.with_style(
        indicatif::ProgressStyle::with_template(style).expect("both templates are well formed"),
    )
}
