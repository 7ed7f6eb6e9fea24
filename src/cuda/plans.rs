//! Tables of measured plans: whose they are, and the one that the environment names.

use std::env;
use std::sync::Arc;

use cudarc::driver::CudaContext;

use super::Cuda;
use super::device::driver;
use super::process::expect_unforked;
use super::programmatic::driver_version;
use crate::error::{Error, Result};
use crate::plan::{DeviceLimits, Measure, Origin, PlanTable};

/// Names the file of a table that every backend has from the beginning.
const VARIABLE: &str = "BATCHNORM_PLANS";

impl Cuda {
    /// The same, with the plans of this table for the problems that it has, and the planner's for all others: `batchnorm tune` makes
    /// tables. It takes the place of an earlier one, and of that which `BATCHNORM_PLANS` names in the environment, a file for every
    /// backend of the process, also for candle and PyTorch.
    ///
    /// Same table, same plans, same bits. A table chooses among the planner's plans for the whole device: while a strategy is forced
    /// ([`Cuda::with_strategy`]), or fewer multiprocessors are allowed ([`Cuda::with_max_sms`]), the planner plans everything.
    ///
    /// # Errors
    /// [`Error::ForeignPlanTable`] for a table of another device, another version of this crate or other kernels;
    /// [`Error::Driver`].
    pub fn with_plans(self, table: impl Into<Arc<PlanTable>>) -> Result<Self> {
        expect_unforked()?;
        let table = table.into();
        origin(self.context(), &self.device)?.check(&table)?;
        Ok(Self { table: Some(table), plans: Arc::default(), ..self })
    }

    /// A table without rows for this device, to measure plans into.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn plan_table(&self, measure: Measure) -> Result<PlanTable> {
        expect_unforked()?;
        Ok(PlanTable::new(origin(self.context(), &self.device)?, measure))
    }

    /// The table that plans come from, where there is one and nothing forbids it: see [`Cuda::with_plans`].
    pub fn plans(&self) -> Option<&PlanTable> {
        let is_whole = self.strategy.is_none() && self.max_sms >= self.device.sms;
        self.table.as_deref().filter(|_| is_whole)
    }
}

/// The device of a context, and this build.
fn origin(context: &CudaContext, limits: &DeviceLimits) -> Result<Origin> {
    Ok(Origin {
        version: env!("CARGO_PKG_VERSION").into(),
        kernels: env!("BATCHNORM_KERNELS_HASH").into(),
        device: context.name().map_err(driver("cuDeviceGetName"))?,
        limits: *limits,
        driver: u32::try_from(driver_version()?).unwrap_or(0),
    })
}

/// The table that the environment names, where it names one, for the device of a context.
pub(super) fn of_environment(context: &CudaContext, limits: &DeviceLimits) -> Result<Option<Arc<PlanTable>>> {
    let Some(path) = env::var_os(VARIABLE).filter(|path| !path.is_empty()) else { return Ok(None) };
    let told = |source| Error::PlanVariable { source: Box::new(source) };
    let table = PlanTable::load(&path).map_err(told)?;
    let of_file =
        |source| told(Error::PlanFile { path: path.to_string_lossy().into_owned(), source: Box::new(source) });
    origin(context, limits)?.check(&table).map_err(of_file)?;
    Ok(Some(Arc::new(table)))
}
