use crate::error::Result; use crate::store::Store;
pub struct Capabilities { pub create_if_absent: bool }
pub fn probe(_s:&dyn Store)->Result<Capabilities>{ Ok(Capabilities{create_if_absent:true}) }
