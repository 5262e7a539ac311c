//! Prunes the store of a configuration as `countersign authority prune` does, but of everything before this moment: the command takes no age below
//! a day, for which no test waits. Arguments: the configuration, and `--dry-run`. Prints how many members went, in JSON.

use countersign_authority::config::Config;
use countersign_authority::store::PrunePlan;
use std::error::Error;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let config = Config::load(Path::new(&args.next().ok_or("which configuration?")?))?;
    let now_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let dry_run = args.next().is_some_and(|arg| arg == "--dry-run");
    let plan = PrunePlan { before_ms: now_ms, now_ms, dry_run };
    let pruned = config.store.place(&config.origin).prune(&plan, &mut |_| {})?;
    println!("{}", serde_json::json!({"blobs": pruned.blobs, "leaves": pruned.upto}));
    Ok(())
}
