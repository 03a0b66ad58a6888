/** The functions on offer on a channel, with what they take. */

import { asKacheryError } from "./errors.js";
import { MAX_FUNCTION_ID, MAX_LABEL, MAX_PARAMETER_CHOICES, MAX_TASK_FUNCTIONS, MAX_TASK_PARAMETERS, OFFER_PAGES, OFFERING_NODES } from "./limits.js";
import { asBool, asInt, asList, asMap, asText } from "./msgpack.js";
import type { Member } from "./member.js";
import { taskGoal } from "./share.js";
import { TASK_TYPES, type TaskType } from "./task.js";

const PARAMETER_TYPES = ["text", "integer", "number", "boolean", "array", "json"] as const;
export type ParameterType = (typeof PARAMETER_TYPES)[number];

export interface Parameter {
  readonly name: string;
  readonly type: ParameterType;
  readonly required: boolean;
  /** JSON; null: there is none, or it cannot be said. */
  readonly fallback: string | null;
  /** JSON, all that it takes; empty: any of its type. */
  readonly choices: readonly string[];
}

export interface Signature {
  readonly about: string;
  readonly parameters: readonly Parameter[];
  /** It takes others, too. */
  readonly more: boolean;
}

/** One function, of whoever offers it. */
export interface Offer {
  readonly function: string;
  readonly type: TaskType;
  readonly nodes: readonly string[];
  readonly slots: number;
  readonly running: number;
  readonly queued: number;
  readonly allowed: boolean;
  readonly signature: Signature | null;
}

/** All that is on offer, by the names of functions; and what was not answered. */
export async function offers(member: Member): Promise<{ offers: Offer[]; silent: string[] }> {
  const found = new Map<string, Offer>();
  const silent: string[] = [];
  await member.everybody(taskGoal(""), OFFERING_NODES, async (holder) => {
    try {
      for (const offer of await ofNode(member, holder.id)) {
        const name = `${offer.function} ${offer.type}`;
        const before = found.get(name);
        found.set(name, before ? together(before, offer) : offer);
      }
    } catch (error) {
      silent.push(`${member.nameOf(holder.id)}: ${asKacheryError(error).message}`);
    }
  });
  const order = (a: Offer, b: Offer) => (a.function < b.function ? -1 : 1);
  return { offers: [...found.values()].sort(order), silent };
}

function together(a: Offer, b: Offer): Offer {
  return {
    ...a,
    nodes: [...a.nodes, ...b.nodes],
    slots: a.slots + b.slots,
    running: a.running + b.running,
    queued: a.queued + b.queued,
    allowed: a.allowed || b.allowed,
    signature: a.signature ?? b.signature,
  };
}

async function ofNode(member: Member, node: Uint8Array<ArrayBuffer>): Promise<Offer[]> {
  const link = await member.reach(node);
  const all: Offer[] = [];
  let after = "";
  for (let page = 0; page < OFFER_PAGES; page++) {
    const answer = asMap(await link.request("task.offers", { channel: member.channel, function: null, after }), "an answer");
    const some = asList(answer.offers, "offers", 0, MAX_TASK_FUNCTIONS).map((each) => offerOf(each, member.nameOf(node)));
    all.push(...some);
    if (!asBool(answer.more, "more") || some.length === 0) break;
    after = some[some.length - 1]!.function;
  }
  return all;
}

function offerOf(value: unknown, node: string): Offer {
  const items = asList(value, "an offer", 6);
  const type = TASK_TYPES.find((each) => each === items[1]) ?? "query";
  const count = (at: number) => asInt(items[at], "a number", 0, Number.MAX_SAFE_INTEGER);
  return {
    function: asText(items[0], "a function", MAX_FUNCTION_ID),
    type,
    nodes: [node],
    slots: count(2),
    running: count(3),
    queued: count(4),
    allowed: asBool(items[5], "allowed"),
    signature: (items[7] ?? null) === null ? null : signatureOf(items[7]),
  };
}

function signatureOf(value: unknown): Signature {
  const [about = "", parameters = [], more = false] = asList(value, "a signature");
  return {
    about: asText(about, "a text", MAX_LABEL),
    parameters: asList(parameters, "arguments", 0, MAX_TASK_PARAMETERS).map(parameterOf),
    more: asBool(more, "more"),
  };
}

function parameterOf(value: unknown): Parameter {
  const [name, type, required, fallback = null, choices = []] = asList(value, "an argument", 3);
  return {
    name: asText(name, "a name", MAX_LABEL),
    // Of a kind that this page does not know: any value.
    type: PARAMETER_TYPES.find((each) => each === type) ?? "json",
    required: asBool(required, "required"),
    fallback: fallback === null ? null : asText(fallback, "a default", MAX_LABEL),
    choices: asList(choices, "choices", 0, MAX_PARAMETER_CHOICES).map((each) => asText(each, "a choice", MAX_LABEL)),
  };
}
