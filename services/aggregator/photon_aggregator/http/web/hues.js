// Which colour stands for what: phases have fixed ones, participants take them in turn (palette.css).

// In the order in which they happen: an evaluation is of the model that the round starts from.
export const PHASES = ["evaluate", "pull", "train", "encode", "push", "admit", "merge", "commit", "wait"];
const COLOURS = { evaluate: "--s2", pull: "--s5", train: "--s0", encode: "--s4", push: "--s1", admit: "--s3", merge: "--s6", commit: "--s8", wait: "--s7" };
const HUES = 9;

export const colourOfPhase = (phase) => COLOURS[phase];
export const hueOf = (names, name) => `--s${names.indexOf(name) % HUES}`;
