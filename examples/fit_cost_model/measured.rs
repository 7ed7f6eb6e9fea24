//! The measurements in the JSON of `batchnorm bench`, as far as a model of time predicts them.

use batchnorm::bench::{Pass, Row, cost};
use batchnorm::op::Problem;
use batchnorm::plan::{DeviceLimits, Plan};
use batchnorm::{Dtype, Layout, Shape, Strategy};
use serde_json::Value;

/// One time that was measured, and what the model has to say to it.
pub(crate) struct Observation {
    /// The median, in nanoseconds.
    pub(crate) ns: f64,
    /// Number of samples that it is the median of.
    pub(crate) samples: usize,
    pub(crate) of: Of,
    pub(crate) limits: DeviceLimits,
}

/// The work that took that time.
pub(crate) enum Of {
    /// A probe, and its name.
    Probe(String, Probe),
    /// An operation by this plan.
    Plan(Problem, Plan),
}

/// A probe as the model sees it.
pub(crate) enum Probe {
    Empty,
    Move(Move),
    /// Exchanges of a cooperative grid.
    GridExchange {
        rounds: f64,
    },
    /// Exchanges of clusters of `team` CTAs, and what the same launch took without any.
    ClusterExchange {
        rounds: f64,
        team: f64,
        without: f64,
    },
}

/// A probe that moves bytes.
pub(crate) struct Move {
    pub(crate) bytes: f64,
    /// Those of them that are loaded.
    pub(crate) loaded: f64,
    /// CTAs that run at once, and the bytes of loads that each has in flight.
    pub(crate) ctas: f64,
    pub(crate) in_flight: f64,
    /// Bytes side by side in a row.
    pub(crate) row_bytes: f64,
    /// Whether L2 answers.
    pub(crate) is_warm: bool,
}

/// An operation on a row, and where its observations are.
pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) observations: Vec<usize>,
}

/// All that the files say.
#[derive(Default)]
pub(crate) struct Measured {
    pub(crate) observations: Vec<Observation>,
    pub(crate) tasks: Vec<Task>,
    /// The measurements that the model says nothing to, or that could not be used: a line each.
    pub(crate) notes: Vec<String>,
}

impl Measured {
    /// Adds what a bench measured in this way, `graph` or `eager`; refuses what no GPU did.
    pub(crate) fn read(&mut self, json: &Value, way: &str) -> Result<(), String> {
        let device =
            json["device"].as_str().ok_or("expected the JSON of `batchnorm bench`, got one without a device")?;
        if !device.starts_with("cuda") {
            return Err(format!("expected times of a CUDA device, got those of {device}"));
        }
        let model = json["model"].as_str().unwrap_or_default();
        if model.starts_with("emulated") || json["timed"] == false {
            return Err(format!("expected times of a GPU, got those of an emulated device ({model})"));
        }
        let limits = limits(&json["limits"])?;
        let before = self.observations.len();
        for probe in list(&json["probes"]["measured"]) {
            self.read_probe(probe, list(&json["probes"]["measured"]), limits, way);
        }
        for row in list(&json["rows"]) {
            self.read_row(row, limits, way)?;
        }
        if self.observations.len() == before {
            return Err(format!("expected times of the way \"{way}\", got none"));
        }
        Ok(())
    }

    fn read_probe(&mut self, entry: &Value, all: &[Value], limits: DeviceLimits, way: &str) {
        let Some((ns, samples)) = time(entry, way) else { return };
        let kind = entry["probe"]["kind"].as_str().unwrap_or_default();
        let of = probe(entry, &limits).or_else(|| {
            let rounds = entry["probe"]["rounds"].as_f64()?;
            let same_team = |other: &&Value| other["probe"]["team"] == entry["probe"]["team"];
            let exchanges = all.iter().filter(|other| other["probe"]["kind"] == "cluster-exchange").filter(same_team);
            let without = exchanges.filter(|other| other["probe"]["rounds"] == 0).find_map(|other| time(other, way));
            let (without, _) = without.filter(|_| kind == "cluster-exchange" && rounds > 0.0)?;
            Some(Probe::ClusterExchange { rounds, team: entry["probe"]["team"].as_f64()?, without })
        });
        match of {
            Some(of) => {
                self.observations.push(Observation { ns, samples, of: Of::Probe(kind.into(), of), limits });
            }
            None => self.notes.push(format!("{}: {:.2} us", parameters(&entry["probe"]), ns / 1e3)),
        }
    }

    fn read_row(&mut self, entry: &Value, limits: DeviceLimits, way: &str) -> Result<(), String> {
        let name = entry["name"].as_str().unwrap_or_default().to_owned();
        let (row, operation) = row(entry).ok_or_else(|| format!("expected a row of the benches, got \"{name}\""))?;
        let problem = operation.problem(&row).map_err(|error| format!("{name}: {error}"))?;
        let mut task = Task { name, observations: Vec::new() };
        let mut seen: Vec<Plan> = Vec::new();
        for subject in list(&entry["subjects"]) {
            let Some((ns, samples)) = time(subject, way) else { continue };
            let subject_name = subject["name"].as_str().unwrap_or_default();
            if subject_name != "batchnorm" && !subject_name.starts_with("batchnorm, ") {
                continue;
            }
            match plan(subject, &problem, &limits) {
                // The planner's own choice is one of the forced plans too.
                Some(plan) if seen.contains(&plan) => {}
                Some(plan) => {
                    seen.push(plan);
                    task.observations.push(self.observations.len());
                    self.observations.push(Observation { ns, samples, of: Of::Plan(problem, plan), limits });
                }
                None => {
                    self.notes.push(format!("{}, {subject_name}: a plan that this planner does not have", task.name));
                }
            }
        }
        if !task.observations.is_empty() {
            self.tasks.push(task);
        }
        Ok(())
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The median in nanoseconds, and how many samples it is of.
fn time(entry: &Value, way: &str) -> Option<(f64, usize)> {
    let spread = &entry["seconds"][way];
    let samples = spread["samples"].as_array().map_or_else(|| spread["samples"].as_u64(), |all| Some(all.len() as u64));
    let median = spread["median"].as_f64().filter(|&median| median > 0.0)?;
    Some((median * 1e9, samples.unwrap_or(1) as usize))
}

/// A probe that the model has a formula for.
fn probe(entry: &Value, limits: &DeviceLimits) -> Option<Probe> {
    let number = |key: &str| entry["probe"][key].as_f64();
    // The bytes of a vector, and the vectors that a thread of the plain streams has in flight of each input.
    let (vector, plain) = (16.0, 4.0);
    let sms = f64::from(limits.sms);
    let filled = f64::from(limits.sms * Plan::MIN_CTAS);
    let threads = f64::from(Plan::MAX_THREADS);
    let cold = |read: f64, written: f64, row_bytes: f64| {
        let buffer = number("bytes")?;
        let (bytes, loaded) = ((read + written) * buffer, read * buffer);
        let in_flight = threads * plain * vector * read;
        Some(Probe::Move(Move { bytes, loaded, ctas: filled, in_flight, row_bytes, is_warm: false }))
    };
    match entry["probe"]["kind"].as_str()? {
        "empty" => Some(Probe::Empty),
        "copy" => cold(1.0, 1.0, f64::INFINITY),
        "two-read-one-write" => cold(2.0, 1.0, f64::INFINITY),
        "two-read-two-write" => cold(2.0, 2.0, f64::INFINITY),
        "strided" => cold(1.0, 1.0, number("strip_bytes")?),
        "copy-by" => {
            let (bytes, threads) = (number("bytes")?, number("threads")?);
            // CTAs beyond those that registers are sure to have room for wait.
            let room = sms * f64::from(Plan::MIN_CTAS * Plan::MAX_THREADS) / threads;
            let in_flight = threads * number("in_flight")? * vector;
            let chunks = (bytes / in_flight).ceil();
            let busy = chunks.min(number("ctas")?);
            // CTAs take whole chunks, so that some end a chunk before the others.
            let ctas = (chunks / (chunks / busy).ceil()).min(room);
            let is_cold = entry["cold"].as_bool()?;
            // Buffers that L2 holds in part are neither cold nor warm.
            let is_warm = 2.0 * bytes * number("sets")? <= limits.l2_bytes as f64;
            let row_bytes = f64::INFINITY;
            (is_cold != is_warm).then_some(Probe::Move(Move {
                bytes: 2.0 * bytes,
                loaded: bytes,
                ctas,
                in_flight,
                row_bytes,
                is_warm,
            }))
        }
        "grid-exchange" => Some(Probe::GridExchange { rounds: number("rounds")? }),
        _ => None, // no constant stands for it, or not for it alone
    }
}

/// The name of a probe with its parameters.
fn parameters(probe: &Value) -> String {
    let name = probe["kind"].as_str().unwrap_or_default();
    let of = |(key, value): (&String, &Value)| (key != "kind").then(|| format!(" {key}={value}"));
    format!("{name}{}", probe.as_object().into_iter().flatten().filter_map(of).collect::<String>())
}

/// The plan that a subject ran by: of those that the planner has the one that agrees in all that the JSON says.
fn plan(subject: &Value, problem: &Problem, limits: &DeviceLimits) -> Option<Plan> {
    let told = &subject["plan"];
    let strategy = Strategy::ALL.iter().copied().find(|strategy| told["strategy"] == strategy.name())?;
    let agrees = |plan: &Plan| {
        let t = &plan.tiling;
        let numbers = [
            ("threads", i64::from(t.threads)),
            ("strips", i64::from(t.tiles)),
            ("splits", i64::from(t.splits)),
            ("teams", i64::from(t.teams)),
            ("held_steps", i64::from(t.smem_iters)),
            ("shared_bytes", i64::from(t.shared_bytes)),
        ];
        told["form"] == t.access.name() && numbers.iter().all(|&(key, value)| told[key] == value)
    };
    cost::plans(&cost::Constants::PLANNED_BY, problem, limits, strategy).into_iter().find(agrees)
}

fn row(entry: &Value) -> Option<(Row, Pass)> {
    let text = |key: &str| entry[key].as_str();
    let dims: Option<Vec<usize>> = list(&entry["dims"]).iter().map(|dim| usize::try_from(dim.as_u64()?).ok()).collect();
    let layout =
        [Layout::ChannelsFirst, Layout::ChannelsLast].into_iter().find(|l| Some(&*l.to_string()) == text("layout"))?;
    let dtype = text("dtype").and_then(Dtype::named).filter(|dtype| dtype.is_on_cuda())?;
    let operation = Pass::ALL.into_iter().find(|operation| Some(&*operation.name()) == text("operation"))?;
    let row = Row {
        suite: text("suite")?.into(),
        name: text("row")?.into(),
        count: 1,
        shape: Shape::new(&dims?, layout).ok()?,
        dtype,
        offset: entry["offset"].as_u64().unwrap_or(0) as usize,
    };
    Some((row, operation))
}

/// The device's limits, each by its name.
fn limits(told: &Value) -> Result<DeviceLimits, String> {
    let number = |value: &Value, key: &str| {
        value[key].as_u64().ok_or_else(|| format!("expected the device's {key}, got {}", value[key]))
    };
    let small =
        |value: &Value, key: &str| u32::try_from(number(value, key)?).map_err(|error| format!("{key}: {error}"));
    let clusters = |share: &str| -> Result<[u32; 4], String> {
        let of = |size: &str| small(&told["clusters"][share], size);
        Ok([of("2")?, of("4")?, of("8")?, of("16")?])
    };
    let part = |index: usize| told["compute_capability"][index].as_u64().and_then(|part| u32::try_from(part).ok());
    let capability = part(0).zip(part(1)).ok_or("expected the device's compute_capability, two numbers")?;
    Ok(DeviceLimits {
        compute_capability: capability,
        sms: small(told, "sms")?,
        shared_per_sm: small(told, "shared_per_sm")?,
        shared_per_cta: small(told, "shared_per_cta")?,
        shared_reserved: small(told, "shared_reserved")?,
        threads_per_sm: small(told, "threads_per_sm")?,
        ctas_per_sm: small(told, "ctas_per_sm")?,
        l2_bytes: number(told, "l2_bytes")?,
        memory_gb_per_s: small(told, "memory_gb_per_s")?,
        cooperative: told["cooperative"].as_bool().ok_or("expected the device's cooperative, true or false")?,
        clusters: [clusters("one_cta_per_sm")?, clusters("two_ctas_per_sm")?],
    })
}
