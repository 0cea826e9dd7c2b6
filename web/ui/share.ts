/** Links that lead to a stream, for whoever is given them. */
import { isObject } from "../client/index.js";
import { texts } from "./texts.js";

/** What a link says: a stream and, where the server asks for keys, a token that reads it and nothing else. */
export interface SharedStream { id: string; token: string | undefined }

const fragment = /^#stream=([0-9A-Z]{1,64})(?:&token=([\w.~+/=-]{1,4096}))?$/;

export function readFragment(hash: string): SharedStream | undefined {
  const m = fragment.exec(hash);
  return m?.[1] === undefined ? undefined : { id: m[1], token: m[2] };
}

/** The link to a stream. The token is in the fragment, which browsers send to no server. */
export function linkTo(page: string, s: SharedStream): string {
  const url = new URL(page);
  url.hash = `stream=${s.id}${s.token === undefined ? "" : `&token=${s.token}`}`;
  return url.href;
}

/** Asks the server for a token that reads one stream, as the holder of this key. */
export async function shareToken(page: string, id: string, key: string): Promise<{ token: string; expires: Date }> {
  const r = await fetch(new URL(`v1/streams/${encodeURIComponent(id)}/share`, new URL(".", page)), {
    method: "POST", headers: { Accept: "application/json", Authorization: `Bearer ${key}` }, cache: "no-store",
  });
  const v: unknown = await r.json().catch(() => undefined);
  if (!r.ok || !isObject(v) || typeof v["token"] !== "string" || typeof v["expires"] !== "string") {
    const title = isObject(v) && typeof v["title"] === "string" ? v["title"] : texts.answered(r.status);
    throw new Error(title);
  }
  return { token: v["token"], expires: new Date(v["expires"]) };
}
