/** Functions that a view has run: those that its link names, few at once, and no action without a person's word. */

import { KacheryError } from "../errors.js";
import type { Bytes } from "../bytes.js";
import { RemoteFile } from "../file.js";
import { MAX_FUNCTION_ID, VIEW_BYTES, VIEW_TASKS } from "../limits.js";
import { asMap, asText } from "../msgpack.js";
import { type Goal, taskGoal } from "../share.js";
import { makeTask, runTask, TASK_TYPES, type TaskResult } from "../task.js";
import type { TaskProgress } from "../view/api.js";
import type { Call } from "../view/messages.js";
import type { Visit } from "../visit.js";
import { parseHeader, typed } from "./npy.js";

const bad = (reason: string): KacheryError => new KacheryError("bad-input", { what: "The view's call", reason });

export class ViewTasks {
  private running = 0;
  /** What the person said of each action. */
  private readonly said = new Map<string, Promise<boolean>>();

  constructor(
    private readonly visit: Visit,
    private readonly allows: (name: string) => Promise<boolean>,
  ) {}

  async run(call: Extract<Call, { call: "task" }>, signal: AbortSignal, tell: (progress: TaskProgress) => void): Promise<unknown> {
    const name = asText(call.function, "a function", MAX_FUNCTION_ID);
    const goal = this.goal(name);
    const type = TASK_TYPES.find((each) => each === call.type);
    if (!type) throw bad(`a type is one of ${TASK_TYPES.join(", ")}`);
    const task = makeTask(name, type, asMap(call.kwargs, "arguments"));
    if (this.running >= VIEW_TASKS) throw new KacheryError("busy", { limit: `${VIEW_TASKS} tasks of a view` });
    this.running += 1;
    try {
      if (type === "action" && !(await this.allowed(name)))
        throw new KacheryError("task-cancelled", { function: name, reason: "the person at this page does not allow it" });
      let at = this.visit.share.pass.home;
      const result = await runTask(this.visit, goal, task, {
        signal,
        computes: (node) => this.visit.trusts(goal, node as Bytes),
        tell: ({ state, place, fraction, message, log }, holder) => {
          at = holder.id;
          tell({ state, place, fraction, message, log });
        },
      });
      return await this.value(result, at);
    } finally {
      this.running -= 1;
    }
  }

  private goal(name: string): Goal {
    const found = this.visit.share.view?.tasks.find(({ target }) => target.kind === "task" && target.function === name);
    if (!found) throw new KacheryError("access-denied", { who: "the view", cause: `its link is not for running ${name.slice(0, 100)}` });
    return taskGoal(name, found.keys);
  }

  private allowed(name: string): Promise<boolean> {
    let said = this.said.get(name);
    if (!said) {
      said = this.allows(name);
      this.said.set(name, said);
    }
    return said;
  }

  private async value(result: TaskResult, at: Bytes): Promise<unknown> {
    const data = result.data ?? (await this.load(result.uri!, at));
    switch (result.format) {
      case "json":
        return { json: new TextDecoder().decode(data) };
      case "bytes":
        return { bytes: data.slice() };
      case "npy":
        return { npy: arrayOf(data) };
      case "pkl":
        throw bad("the function returned what only Python can read; have it return JSON values, bytes or an array");
    }
  }

  /** A result that is a file, from who computed it. */
  private async load(uri: string, at: Bytes): Promise<Bytes> {
    const file = await RemoteFile.open(this.visit, this.visit.goalAt(uri, at));
    if (file.size > VIEW_BYTES) throw new KacheryError("too-large", { what: "The result", reason: `a view is given ${VIEW_BYTES} bytes at most` });
    return file.bytes();
  }
}

function arrayOf(data: Bytes): unknown {
  const header = parseHeader(data);
  return { dtype: header.dtype, fortran: header.fortran, shape: header.shape, data: typed(header.dtype, data.slice(header.offset)) };
}
