//! bra, ret, exit and trap (PTX ISA, "Control Flow Instructions"), and prefetch ("Data Movement and Conversion Instructions:
//! prefetch"), which brings a line into a cache and changes nothing. griddepcontrol ("Parallel Synchronization and Communication
//! Instructions: griddepcontrol"): launch_dependents lets the next launch begin, wait waits for the end of those before. There are no calls: ret ends the thread, as exit does.

use super::Op;
use crate::ptx::{Names, Statement};
use crate::trap::Result;

pub(super) fn decode(statement: &Statement<'_>, names: &mut Names) -> Result<Option<Op>> {
    Ok(Some(match statement.opcode {
        // The entry knows where its labels are, once it is read to the end.
        "bra" | "bra.uni" => Op::Branch(usize::MAX),
        "ret" | "exit" => {
            let [] = statement.operands()?;
            Op::Exit
        }
        "trap" => {
            let [] = statement.operands()?;
            Op::Trap
        }
        "prefetch.global.L2" => {
            let [address] = statement.operands()?;
            names.address(address)?;
            Op::Hint
        }
        "griddepcontrol.launch_dependents" => {
            let [] = statement.operands()?;
            Op::Hint
        }
        "griddepcontrol.wait" => {
            let [] = statement.operands()?;
            Op::WaitForLaunches
        }
        _ => return Ok(None),
    }))
}
