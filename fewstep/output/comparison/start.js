// Each part is begun on its own: what fails is told, and the others work.
guarded("filter", startFilter);
guarded("copying", startCopying);
guarded("table", startTable);
guarded("curves", startCurves);
guarded("sheet", startSheet);
guarded("zoom", startZoom);
guarded("steps", startSteps);
changed();
root.dataset.ready = "true";
