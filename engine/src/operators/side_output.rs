//! Side outputs: a second, differently typed stream out of one operator.

use crate::connector::BoxError;
use crate::operator::{
    BindContext, Collector, Failure, Flow, Link, Output, OutputPort, Site, Stage, StageControl,
};
use std::sync::{Arc, Mutex, PoisonError};
use thalweg_storage::Data;

/// Hands the edges of a side output, which are made by the graph, to the stage that feeds them.
pub struct SideSlot<S>(Arc<Mutex<Option<Output<S>>>>);

impl<S> Clone for SideSlot<S> {
    fn clone(&self) -> Self {
        SideSlot(Arc::clone(&self.0))
    }
}

impl<S> Default for SideSlot<S> {
    fn default() -> Self {
        SideSlot(Arc::new(Mutex::new(None)))
    }
}

impl<S> SideSlot<S> {
    /// Puts the output of the subtask that is being made.
    pub fn put(&self, output: Output<S>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(output);
    }

    /// Takes it.
    pub fn take(&self) -> Option<Output<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A function with a main and a side output.
pub struct SideOutput<F, U, S> {
    /// The operator's uid.
    pub uid: Arc<str>,
    /// The function.
    pub function: F,
    /// Where the side output comes from.
    pub slot: SideSlot<S>,
    /// The type of the main output.
    pub main: std::marker::PhantomData<fn() -> U>,
}

impl<F: Clone, U, S> Clone for SideOutput<F, U, S> {
    fn clone(&self) -> Self {
        SideOutput {
            uid: Arc::clone(&self.uid),
            function: self.function.clone(),
            slot: self.slot.clone(),
            main: std::marker::PhantomData,
        }
    }
}

/// A [`SideOutput`] at one partition.
pub struct SideOutputStage<F, U, S, D> {
    site: Site,
    function: F,
    emitted: Collector<U>,
    emitted_side: Collector<S>,
    side: Output<S>,
    down: D,
}

impl<T, U, S, F> Link<T> for SideOutput<F, U, S>
where
    T: 'static,
    U: Send + 'static,
    S: Data,
    F: FnMut(T, &mut Collector<U>, &mut Collector<S>) -> Result<(), BoxError> + Clone + Send + 'static,
{
    type Out = U;
    type Bound<D: Stage<U> + 'static> = SideOutputStage<F, U, S, D>;

    fn bind<D: Stage<U> + 'static>(
        self,
        context: &mut BindContext,
        down: D,
    ) -> Result<Self::Bound<D>, Failure> {
        let site = context.site(&self.uid);
        let side = self.slot.take().ok_or_else(|| site.failure("its side output was not connected"))?;
        Ok(SideOutputStage {
            site,
            function: self.function,
            emitted: Collector::default(),
            emitted_side: Collector::default(),
            side,
            down,
        })
    }
}

impl<F: Send, U: Send, S: Data, D: Stage<U>> SideOutputStage<F, U, S, D> {
    fn drain(&mut self) -> Result<Flow, Failure> {
        if self.emitted_side.drain(&mut self.side)? == Flow::Blocked {
            return Ok(Flow::Blocked);
        }
        self.emitted.drain(&mut self.down)
    }
}

impl<F: Send, U: Send, S: Data, D: Stage<U>> StageControl for SideOutputStage<F, U, S, D> {
    fn down(&mut self) -> Option<&mut dyn StageControl> {
        Some(&mut self.down)
    }

    fn resume(&mut self) -> Result<Flow, Failure> {
        if self.side.is_blocked() || self.down.resume()? == Flow::Blocked {
            return Ok(Flow::Blocked);
        }
        self.drain()
    }

    fn finish_record(&mut self) -> Result<(), Failure> {
        self.emitted_side.finish(&mut self.side)?;
        self.emitted.finish(&mut self.down)
    }

    fn outputs(&mut self, visit: &mut dyn FnMut(&mut dyn OutputPort)) {
        visit(&mut self.side);
        self.down.outputs(visit);
    }
}

impl<T, U, S, F, D> Stage<T> for SideOutputStage<F, U, S, D>
where
    U: Send,
    S: Data,
    F: FnMut(T, &mut Collector<U>, &mut Collector<S>) -> Result<(), BoxError> + Send,
    D: Stage<U>,
{
    #[inline]
    fn process(&mut self, record: T) -> Result<Flow, Failure> {
        self.site.call(|| (self.function)(record, &mut self.emitted, &mut self.emitted_side))?;
        self.drain()
    }
}
