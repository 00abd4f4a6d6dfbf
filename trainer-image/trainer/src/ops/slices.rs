//! Tensors of the CPU as slices of `f32`.

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};

/// The values of a contiguous CPU storage, row-major.
///
/// # Errors
/// Another type than f32, or gaps between the values.
pub(super) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(all) = storage else { bail!("a fused operation needs f32") };
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("a fused operation needs a contiguous tensor") };
    Ok(&all[start..end])
}

/// Calls `read` with the values of a contiguous f32 tensor on the CPU, row-major, without a copy.
///
/// # Errors
/// Another device or type, or gaps between the values.
pub(crate) fn with_values<R>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("a fused operation needs a tensor on the CPU") };
    Ok(read(values(storage, layout)?))
}
