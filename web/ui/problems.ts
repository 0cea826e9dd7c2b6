/** How the page says that something failed. */
import { AthenaError, type Problem } from "../client/index.js";
import { texts } from "./texts.js";

/** Names the provider where it is one that failed: two keys can be wrong, and the user's own is only that of this server. */
export function describeProblem(p: Problem): string {
  if (p.provider && p.code === "unauthorized") return texts.refusedByProvider(p.provider);
  return [p.provider, p.title, p.detail].filter(Boolean).join(": ");
}

export function describeFailure(e: unknown): string {
  if (e instanceof AthenaError) return describeProblem(e.problem);
  return e instanceof Error ? e.message : String(e);
}

/** Reports whether this server itself asks for a key, rather than a provider behind it. */
export function needsKey(e: unknown): boolean {
  return e instanceof AthenaError && e.problem.status === 401 && !e.problem.provider;
}
