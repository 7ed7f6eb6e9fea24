//! The machine of a measurement, and how the device's clocks stood.

use std::process::Command;

use serde_json::{Value, json};

use crate::device::Device;

/// The processor, from the system's own description; its architecture where that is silent.
pub(super) fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(|| std::env::consts::ARCH.into(), |(_, model)| model.trim().into())
}

/// The bundle's facts of its build, where the executable lies in one.
pub(super) fn built() -> Option<String> {
    let folder = std::env::current_exe().ok()?.parent()?.to_path_buf();
    std::fs::read_to_string(folder.join("built.txt")).ok().map(|text| text.trim().into())
}

/// Clocks, power and what throttles a GPU, as its driver tells them now. Null for a CPU, and the reason in words where the
/// driver's tool does not tell.
pub(super) fn clocks(device: Device) -> Value {
    const FIELDS: [&str; 6] =
        ["clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "clocks_event_reasons.active", "utilization.gpu"];
    let Device::Cuda(number) = device else { return Value::Null };
    let query = [format!("--query-gpu={}", FIELDS.join(",")), "--format=csv,noheader,nounits".into()];
    match Command::new("nvidia-smi").args(query).arg(format!("--id={number}")).output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let values = text.trim().split(',').map(|value| json!(value.trim()));
            FIELDS.into_iter().map(String::from).zip(values).collect::<serde_json::Map<_, _>>().into()
        }
        Ok(output) => json!(format!("nvidia-smi: {}", output.status)),
        Err(error) => json!(format!("nvidia-smi: {error}")),
    }
}
