/** One run of a function on the page: how far it is, what it printed, and what it gave. */

import type { Access, Holder } from "../access.js";
import { asKacheryError, KacheryError } from "../errors.js";
import { SHOWN_LOG } from "../limits.js";
import { type Goal } from "../share.js";
import { type RunOptions, runTask, type TaskResult, type TaskUpdate, type Wanted } from "../task.js";
import { make, shown } from "./dom.js";
import { addAction, type Place, showFile, showIn } from "./place.js";
import { BytesFile } from "./show.js";

const EXTENSIONS = { json: "json", npy: "npy", bytes: "dat", pkl: "pkl" } as const;

export class RunView implements Place {
  readonly element: HTMLElement;
  readonly content = make("div", { class: "result" });
  readonly actions = make("div", { class: "actions" });
  readonly bars: HTMLElement;
  private readonly status = make("p", { class: "state", role: "status" }, "Asking who runs it …");
  private readonly bar = make("progress", { "aria-label": "Done" });
  private readonly log = make("pre", { class: "log", tabindex: "0", "aria-label": "What it printed", hidden: "" });
  private readonly cancelling = new AbortController();
  private readonly closing = new AbortController();

  constructor(
    private readonly access: Access,
    private readonly goal: Goal,
    private readonly task: Wanted,
  ) {
    this.bars = this.status;
    const about = make("p", { class: "note leaf" }, shown(task.kwargs, 300));
    this.element = make("section", { class: "run" }, make("h3", {}, shown(task.function, 100)), about, this.status, this.bar, this.actions, this.log, this.content);
  }

  get over(): AbortSignal {
    return this.closing.signal;
  }

  /** Follows it to its end. Resolves to whether it is known how it ended. `open`: a goal of a result's file. */
  async follow(options: Omit<RunOptions, "signal" | "tell">, open: (uri: string) => Goal): Promise<boolean> {
    const cancel = addAction(this, "Cancel", () => {
      cancel.disabled = true;
      this.tell("Cancelling …");
      this.cancelling.abort();
    });
    try {
      const result = await runTask(this.access, this.goal, this.task, {
        ...options,
        signal: this.cancelling.signal,
        tell: (update, holder) => this.hear(update, holder),
      });
      cancel.remove();
      this.bar.remove();
      await this.show(result, open);
      return true;
    } catch (error) {
      cancel.remove();
      this.bar.remove();
      if (!this.closing.signal.aborted) this.fail(error);
      return !["link-closed", "unreachable", "removed"].includes(asKacheryError(error).code);
    }
  }

  /** The page goes; the run does not. */
  close(): void {
    this.closing.abort();
  }

  private hear(update: TaskUpdate, holder: Holder): void {
    const where = shown(holder.label, 60) || "another node";
    if (update.fraction !== null) this.bar.value = update.fraction;
    if (update.log) {
      this.log.hidden = false;
      this.log.textContent = (this.log.textContent + update.log).slice(-SHOWN_LOG);
      this.log.scrollTop = this.log.scrollHeight;
    }
    if (update.traceback) {
      this.log.hidden = false;
      this.log.textContent = `${this.log.textContent}${update.traceback}`.slice(-SHOWN_LOG);
    }
    if (this.cancelling.signal.aborted) return;
    if (update.state === "queued") this.tell(update.place ? `Queued on ${where}; ${update.place} before it.` : `Queued on ${where}.`);
    else if (update.state === "ready") this.tell(`It may begin on ${where} …`);
    else if (update.state === "running") {
      const percent = update.fraction === null ? "" : ` ${Math.round(100 * update.fraction)} %`;
      this.tell(`Running on ${where}.${percent} ${shown(update.message, 300)}`);
    }
  }

  private async show(result: TaskResult, open: (uri: string) => Goal): Promise<void> {
    const name = `${this.task.function}.${EXTENSIONS[result.format]}`;
    this.tell("Fetching the result …");
    if (result.uri !== null) await showFile(this.access, open(result.uri), this);
    else await showIn(new BytesFile(name, result.data!), this);
    const at = new Date(result.timestamp);
    const made = Number.isNaN(at.getTime()) ? "" : `, at ${at.toLocaleString()}`;
    this.tell(`Finished${made}. The node that computed it signed it.`);
  }

  // --- as a Place ------------------------------------------------------------------------------

  tell(text: string, error = false): void {
    if (this.status.textContent !== text) this.status.textContent = text;
    this.status.classList.toggle("error", error);
  }

  fail(error: unknown): void {
    const known = error instanceof KacheryError ? error : asKacheryError(error);
    if (known.code === "internal") console.error(error);
    this.tell(known.message, true);
  }

  fact(): void {
    // Its result stands below it; its size is of no interest.
  }

  route(): void {
    // Said by `show`.
  }
}
