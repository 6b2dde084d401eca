//! The project's chores: `cargo xtask help` lists them.

mod ci;
mod layers;
mod test;

use anyhow::bail;

const HELP: &str = "\
cargo xtask TASK

  test [ARGS]   run every test of the workspace; ARGS go to `cargo test`
  ci            format, lints, docs, layering and tests, as continuous integration runs them
  layers        check which crate may depend on which
";

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let task = args.next().unwrap_or_else(|| "help".to_owned());
    let rest: Vec<String> = args.collect();
    match task.as_str() {
        "test" => test::run(&rest),
        "ci" => ci::run(),
        "layers" => layers::run(),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => bail!("no task `{other}`\n\n{HELP}"),
    }
}
