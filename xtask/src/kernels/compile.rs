//! One file through nvcc, and what ptxas says of its kernels.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use cpp_demangle::{DemangleOptions, Symbol};

use super::{Kernel, Source, budget, sass};
use crate::build::flags;
use crate::toolkit::Toolkit;

const FOLDER: &str = "target/kernels";

/// Compiles a file for every architecture of the fat binary, and reads what came out.
pub(super) fn compile(toolkit: &Toolkit, file: &Path) -> Result<Source, String> {
    let stem = file.file_stem().unwrap_or_default();
    let folder = Path::new(FOLDER).join(stem);
    let fatbin = PathBuf::from(stem).with_extension("fatbin");
    // Emptied, so that no machine code of another day is read.
    fs::remove_dir_all(&folder).or_else(|_| fs::create_dir_all(FOLDER)).map_err(|e| e.to_string())?;
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;

    let start = Instant::now();
    let mut nvcc = Command::new(toolkit.nvcc());
    nvcc.args(flags::FLAGS)
        .args(flags::compression(None)?)
        .args(flags::gencode(flags::ARCHITECTURES)?)
        .arg(flags::STRICT);
    nvcc.args(["-Xptxas", "-v", "--fatbin", "-o"]).arg(folder.join(&fatbin)).arg(file);
    let said = run(&mut nvcc)?;
    let seconds = start.elapsed().as_secs_f64();

    let bytes = fs::metadata(folder.join(&fatbin)).map_err(|e| e.to_string())?.len();
    let mut extract = Command::new(toolkit.program("cuobjdump"));
    run(extract.args(["--extract-elf", "all"]).arg(&fatbin).current_dir(&folder))?;
    let mut kernels = Vec::new();
    for (architecture, functions) in ptxas(&String::from_utf8_lossy(&said.stderr))? {
        let cubin = cubin(&folder, &architecture)?;
        let text = run(Command::new(toolkit.program("nvdisasm")).arg(cubin))?.stdout;
        let mut code = sass::read(&String::from_utf8_lossy(&text), |symbol| budget::data(&demangled(symbol)));
        for function in functions {
            let Function { symbol, registers, spills, stack, shared } = function;
            let code =
                code.remove(&symbol).ok_or_else(|| format!("{symbol}: no machine code for sm_{architecture}"))?;
            let name = demangled(&symbol);
            kernels.push(Kernel { name, architecture: architecture.clone(), registers, spills, stack, shared, code });
        }
    }
    Ok(Source { file: file.display().to_string(), seconds, bytes, kernels })
}

/// The words of ptxas on one kernel.
struct Function {
    symbol: String,
    registers: u32,
    spills: u32,
    stack: u32,
    shared: u32,
}

/// Reads `-Xptxas -v`: architectures in their order, and the kernels of each by name.
///
/// ```text
/// ptxas info    : Compiling entry function '_Z1kPf' for 'sm_90'
/// ptxas info    : Function properties for _Z1kPf
///     32 bytes stack frame, 28 bytes spill stores, 28 bytes spill loads
/// ptxas info    : Used 24 registers, used 1 barriers, 32 bytes cumulative stack size, 1024 bytes smem
/// ```
/// Functions that a kernel calls have properties of their own; they count for the kernel.
fn ptxas(text: &str) -> Result<Vec<(String, Vec<Function>)>, String> {
    let mut architectures: Vec<(String, Vec<Function>)> = Vec::new();
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let (symbol, rest) = rest.split_once("' for 'sm_").ok_or_else(|| format!("ptxas says: {line}"))?;
            let (architecture, symbol) = (rest.trim_end_matches('\''), symbol.to_string());
            let function = Function { symbol, registers: 0, spills: 0, stack: 0, shared: 0 };
            match architectures.iter_mut().find(|(name, _)| name == architecture) {
                Some((_, functions)) => functions.push(function),
                None => architectures.push((architecture.to_string(), vec![function])),
            }
        } else if let Some(function) = architectures.last_mut().and_then(|(_, functions)| functions.last_mut()) {
            function.stack += before(line, " bytes stack frame");
            function.spills += before(line, " bytes spill stores") + before(line, " bytes spill loads");
            function.shared += before(line, " bytes smem");
            if line.contains(": Used ") {
                function.registers = before(line, " registers");
            }
        }
    }
    for (_, functions) in &mut architectures {
        functions.sort_by(|a, b| a.symbol.cmp(&b.symbol));
    }
    Ok(architectures)
}

/// The number before these words, 0 where they are absent.
fn before(line: &str, words: &str) -> u32 {
    let number = line.split_once(words).and_then(|(start, _)| start.rsplit([' ', '\t']).next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn cubin(folder: &Path, architecture: &str) -> Result<PathBuf, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let end = format!(".sm_{architecture}.cubin");
    let mut files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    files
        .find(|file| file.to_string_lossy().ends_with(&end))
        .ok_or_else(|| format!("{}: the fat binary has no code for sm_{architecture}", folder.display()))
}

/// A kernel's name without parameters, return type and the names of unnamed namespaces: they tell no kernel from another.
fn demangled(symbol: &str) -> String {
    let options = DemangleOptions::new().no_params().no_return_type();
    let name = Symbol::new(symbol).ok().and_then(|parsed| parsed.demangle_with_options(&options).ok());
    name.map_or_else(|| symbol.to_string(), |name| name.replace("(anonymous namespace)::", ""))
}

fn run(command: &mut Command) -> Result<Output, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("{program} does not run: {e}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = [output.stdout, output.stderr].concat();
    // ptxas's lines about resources would bury the message.
    let said = String::from_utf8_lossy(&said);
    let lines = said.lines().filter(|line| !line.contains("ptxas info") && !line.contains(" bytes stack frame"));
    let words = command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    Err(format!("{program} {words}\n{}", lines.collect::<Vec<_>>().join("\n")))
}

#[cfg(test)]
mod tests {
    use super::{demangled, flags, ptxas};

    const SAID: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z1kIfEvPT_' for 'sm_90'
ptxas info    : Function properties for _Z1kIfEvPT_
    32 bytes stack frame, 28 bytes spill stores, 24 bytes spill loads
ptxas info    : Used 24 registers, used 1 barriers, 1024 bytes smem, 540 bytes cmem[0]
ptxas info    : Compiling entry function '_Z1kIfEvPT_' for 'sm_120'
ptxas info    : Function properties for _Z1kIfEvPT_
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 128 registers
";

    #[test]
    fn what_ptxas_says_is_read() -> Result<(), String> {
        let found = ptxas(SAID)?;
        let numbers = found.iter().flat_map(|(architecture, functions)| {
            functions.iter().map(move |it| (architecture.as_str(), it.registers, it.spills, it.stack, it.shared))
        });
        assert_eq!(numbers.collect::<Vec<_>>(), [("90", 24, 52, 32, 1024), ("120", 128, 0, 0, 0)]);
        assert_eq!(demangled("_Z1kIfEvPT_"), "k<float>");
        Ok(())
    }

    #[test]
    fn architectures_are_checked() -> Result<(), String> {
        let flags = flags::gencode("80, 90a,90a")?;
        let expected = ["compute_80,code=sm_80", "compute_90a,code=sm_90a", "compute_90,code=compute_90"];
        assert_eq!(flags, expected.map(|flag| format!("-gencode=arch={flag}")));
        for wrong in ["", "banana", "75", "90,", "sm_90", "+90", "90x", "-90"] {
            assert!(flags::gencode(wrong).is_err(), "{wrong}");
        }
        Ok(())
    }

    #[test]
    fn compression_can_be_switched_off() {
        for on in [None, Some(""), Some("1")] {
            assert_eq!(flags::compression(on), Ok(Some("--compress-mode=size")), "{on:?}");
        }
        assert_eq!(flags::compression(Some("0")), Ok(None));
        assert_eq!(flags::compression(Some("no")), Err("expected 0 or 1, got \"no\"".to_string()));
        assert!(!flags::FLAGS.iter().any(|flag| flag.contains("compress")), "it could not be switched off");
    }

    /// Every device from the oldest listed on has machine code of its major version, or PTX; and PTX for a device with
    /// clusters has them.
    #[test]
    fn no_device_is_left_without_code() -> Result<(), String> {
        let cases: [(&str, &[u32]); 11] = [
            (flags::ARCHITECTURES, &[100, 120]),
            ("90", &[90]),
            ("80", &[90]),
            ("86,89", &[90]),
            ("80,120", &[90, 120]),
            ("120,80", &[90, 120]),
            ("90,100", &[100]),
            ("90,100,103a,110", &[110]),
            ("100a,103", &[100, 103]),
            ("100a,100,110", &[110]),
            ("90a,110", &[90, 110]),
        ];
        for (list, expected) in cases {
            let flags = flags::gencode(list)?;
            let ptx: Vec<String> =
                flags.iter().filter_map(|flag| Some(flag.split_once(",code=compute_")?.1.into())).collect();
            assert_eq!(ptx, expected.iter().map(u32::to_string).collect::<Vec<_>>(), "{list}");

            let ptx: Vec<u32> = ptx.iter().filter_map(|ptx| ptx.parse().ok()).collect();
            let numbers =
                list.split(',').filter_map(|name| Some((name, name.trim_end_matches('a').parse::<u32>().ok()?)));
            let numbers: Vec<(&str, u32)> = numbers.collect();
            let oldest = numbers.iter().map(|&(_, number)| number).min().ok_or("empty")?;
            // Architectures that there are, and one to come.
            for device in [80, 86, 87, 89, 90, 100, 103, 110, 120, 121, 130].into_iter().filter(|&it| it >= oldest) {
                let runs = |&(name, number): &(&str, u32)| {
                    number == device || (!name.ends_with('a') && number / 10 == device / 10 && number <= device)
                };
                let compiled = ptx.iter().any(|&ptx| ptx <= device && (ptx >= 90 || device < 90));
                assert!(numbers.iter().any(runs) || compiled, "\"{list}\" leaves {device} without code");
            }
        }
        Ok(())
    }
}
