//! The project's chores as `cargo xtask TASK`: one file a task, few dependencies, nothing to install but Rust.

#![forbid(unsafe_code)]

mod backend;
mod bench;
mod cargo;
mod ci;
mod clip;
mod layers;
mod machine;
mod parity;
mod test;

use std::process::ExitCode;

const HELP: &str = "\
Usage: cargo xtask TASK [ARGS...]

  pretrain [--backend B] [ARGS...]  build `clip` for one backend and run `clip pretrain ARGS...`;
                                    with no arguments: make a dataset, train, evaluate
  serve-device [--backend B] ARGS...
                                    build `clip` for one backend and offer this machine's devices to
                                    runs elsewhere: `clip serve-device ARGS...`
  clip [--backend B] ARGS...        build `clip` for one backend and run `clip ARGS...`
  bench [--backend B] [ARGS...]     `clip bench ARGS...` against OpenCLIP on PyTorch, which is installed
                                    into .venv unless --peer PYTHON names another
  test [ARGS...]                    the whole test suite: `cargo test --workspace --release ARGS...`
  ci                                formatting, lints, docs, dependency policy, layering, tests
  parity [--python P] [PRESET...]   compare features at full size with OpenCLIP's, for which P needs
                                    tests/reference/requirements.txt
  layers                            check that the crates depend on each other in one direction only
  help                              this text

B is auto (the default), cpu, wgpu, vulkan, metal or cuda. `auto` takes the strongest backend that works
on this machine and says which; it falls back to cpu.";

fn main() -> ExitCode {
    let mut args: Vec<String> = Vec::new();
    for arg in std::env::args_os().skip(1) {
        match arg.into_string() {
            Ok(arg) => args.push(arg),
            Err(arg) => {
                eprintln!("error: the argument {} is not valid UTF-8", arg.display());
                return ExitCode::from(2);
            }
        }
    }
    let task = if args.is_empty() {
        "help".to_owned()
    } else {
        args.remove(0)
    };
    let done = match task.as_str() {
        "pretrain" | "serve-device" => {
            args.insert(0, task);
            clip::run(args)
        }
        "clip" => clip::run(args),
        "bench" => bench::run(args),
        "test" => test::run(&args),
        "ci" => ci::run(&args),
        "parity" => parity::run(&args),
        "layers" => layers::run(&args),
        "help" | "--help" | "-h" => {
            println!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprintln!("error: there is no task `{task}`\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        let wrong_usage = error.downcast_ref::<cargo::Usage>().is_some();
        ExitCode::from(if wrong_usage { 2 } else { 1 })
    })
}
