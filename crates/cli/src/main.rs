use std::process::ExitCode;

fn main() -> ExitCode {
    cli::complete::answer_shell();
    cli::run(&cli::Environment::of_process())
}
