//! A model's parameters and gradients as one flat vector, and changes in place.
//!
//! Methods, optimisers and the network work on flat slices; the order is that of [`Llama::parameters`].

use std::cell::RefCell;
use std::ops::Range;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor, Var};

use super::{Llama, ModelError};
use crate::ops::with_values;

impl Llama {
    /// Copies all parameters to `flat`.
    ///
    /// # Errors
    /// [`ModelError::Length`] if it is not as long as the model has parameters; [`ModelError::Candle`].
    pub fn flatten_into(&self, flat: &mut [f32]) -> Result<(), ModelError> {
        self.check_length(flat.len())?;
        for ((_, variable), range) in self.parameters.iter().zip(self.ranges()) {
            copy_to(variable.as_tensor(), &mut flat[range])?;
        }
        Ok(())
    }

    /// Replaces all parameters by those of `flat`.
    ///
    /// # Errors
    /// Those of [`Self::flatten_into`].
    pub fn load_from(&self, flat: &[f32]) -> Result<(), ModelError> {
        self.check_length(flat.len())?;
        self.update(|range, values| values.copy_from_slice(&flat[range]))
    }

    /// Copies the gradient of every parameter to `flat`.
    ///
    /// # Errors
    /// [`ModelError::NoGradient`] naming the first parameter that the loss did not depend on, and those of
    /// [`Self::flatten_into`].
    pub fn gradients_into(&self, gradients: &GradStore, flat: &mut [f32]) -> Result<(), ModelError> {
        self.check_length(flat.len())?;
        for ((name, variable), range) in self.parameters.iter().zip(self.ranges()) {
            let gradient = gradients.get(variable).ok_or_else(|| ModelError::NoGradient { parameter: name.clone() })?;
            copy_to(gradient, &mut flat[range])?;
        }
        Ok(())
    }

    /// Calls `change` for every parameter in order, with its range in the flat vector and its values.
    ///
    /// On the CPU the values are the parameter itself, not a copy. No other thread may run the model meanwhile: it would see
    /// some parameters before and some after the change.
    ///
    /// # Errors
    /// [`ModelError::Candle`].
    pub fn update(&self, change: impl FnMut(Range<usize>, &mut [f32])) -> Result<(), ModelError> {
        let change = RefCell::new(change);
        for ((_, variable), range) in self.parameters.iter().zip(self.ranges()) {
            let change = |values: &mut [f32]| change.borrow_mut()(range.clone(), values);
            change_in_place(variable, &change)?;
        }
        Ok(())
    }

    fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        self.parameters.iter().scan(0, |start, (_, variable)| {
            let range = *start..*start + variable.elem_count();
            *start = range.end;
            Some(range)
        })
    }

    fn check_length(&self, found: usize) -> Result<(), ModelError> {
        let expected = self.ranges().last().map_or(0, |range| range.end);
        if found == expected { Ok(()) } else { Err(ModelError::Length { expected, found }) }
    }
}

fn copy_to(tensor: &Tensor, destination: &mut [f32]) -> Result<(), ModelError> {
    if tensor.device().is_cpu() && tensor.is_contiguous() {
        with_values(tensor, |values| destination.copy_from_slice(values))?;
    } else {
        destination.copy_from_slice(&tensor.flatten_all()?.to_vec1()?);
    }
    Ok(())
}

fn change_in_place(variable: &Var, change: &dyn Fn(&mut [f32])) -> Result<(), ModelError> {
    if variable.device().is_cpu() {
        variable.as_tensor().inplace_op1(&Change(change))?;
    } else {
        let mut values = variable.as_tensor().flatten_all()?.to_vec1()?;
        change(&mut values);
        variable.set(&Tensor::from_vec(values, variable.shape(), variable.device())?)?;
    }
    Ok(())
}

struct Change<'a>(&'a dyn Fn(&mut [f32]));

impl InplaceOp1 for Change<'_> {
    fn name(&self) -> &'static str {
        "change-in-place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let CpuStorage::F32(values) = storage else { candle_core::bail!("a parameter is not f32") };
        let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("a parameter is not contiguous") };
        (self.0)(&mut values[start..end]);
        Ok(())
    }
}
