/** As much of a document as the Markdown renderer needs, for Node. */

class FakeNode {
  parent: FakeElement | undefined;
  constructor(readonly name: string, public text: string) {}
  get outer(): string { return this.text.replaceAll("&", "&amp;").replaceAll("<", "&lt;"); }
  remove(): void {
    this.parent?.children.splice(this.parent.children.indexOf(this), 1);
    this.parent = undefined;
  }
}

export class FakeElement extends FakeNode {
  children: FakeNode[] = [];
  readonly dataset: Record<string, string> = {};
  readonly attributes: Record<string, string> = {};
  href = "";
  className = "";
  constructor(name: string) { super(name, ""); }

  append(...nodes: FakeNode[]): void {
    for (const n of nodes) {
      n.remove();
      n.parent = this;
      this.children.push(n);
    }
  }
  appendChild<N extends FakeNode>(n: N): N { this.append(n); return n; }
  setAttribute(name: string, value: string): void { this.attributes[name] = value; }
  set textContent(text: string) { this.children = text === "" ? [] : [new FakeNode("#text", text)]; }
  get #elements(): FakeElement[] { return this.children.filter((c) => c instanceof FakeElement); }
  get childElementCount(): number { return this.#elements.length; }
  get firstElementChild(): FakeElement | null { return this.#elements[0] ?? null; }
  get lastElementChild(): FakeElement | null { return this.#elements.at(-1) ?? null; }

  get inner(): string { return this.children.map((c) => c.outer).join(""); }
  override get outer(): string {
    const { role: _role, "aria-label": _label, ...shown } = this.attributes;
    const attributes = { ...shown, ...(this.className ? { class: this.className } : {}), ...(this.href ? { href: this.href } : {}), ...(this.dataset["language"] ? { language: this.dataset["language"] } : {}) };
    return `<${this.name}${Object.entries(attributes).map(([k, v]) => ` ${k}=${v}`).join("")}>${this.inner}</${this.name}>`;
  }
}

/** Puts the document where the renderer looks for it, and gives the element to render into. */
export function fakeDocument(): FakeElement & HTMLElement {
  Object.assign(globalThis, {
    HTMLElement: FakeElement,
    document: { createElement: (name: string) => new FakeElement(name), createTextNode: (text: string) => new FakeNode("#text", text) },
  });
  return new FakeElement("article") as FakeElement & HTMLElement;
}
