package interop_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// testPageKeys has an administrator set, check and delete a provider's key on the
// page.
func testPageKeys(t *testing.T, chromium context.Context) {
	var random [32]byte
	rand.Read(random[:])
	master := filepath.Join(t.TempDir(), "master")
	if err := os.WriteFile(master, []byte(base64.StdEncoding.EncodeToString(random[:])), 0o600); err != nil {
		t.Fatal(err)
	}
	h := startHub(t, "--master-key-file", master)
	p := openTab(t, chromium, h.url)
	p.do(chromedp.Click("#providers-box > summary", chromedp.NodeVisible))
	p.until(`!document.getElementById("provider-keys").hidden`) // with the first provider, which has no key
	p.do(chromedp.Evaluate[chromedp.Void](`{
		const choice = document.getElementById("keys-provider");
		choice.value = "openai";
		choice.dispatchEvent(new Event("change"));
	}`))
	p.until(`document.querySelectorAll("#keys-rows > tr").length === 1`) // the variable's

	p.do(chromedp.SendKeys("#keys-id", "team-a"), chromedp.SendKeys("#keys-key", key), chromedp.Click(`#keys-form button[type="submit"]`, chromedp.NodeVisible))
	p.until(`document.getElementById("keys-note").textContent === "The key is set."`)
	const row = `document.querySelector('#keys-rows > tr[data-key="team-a"]')`
	p.until(row + ` !== null`)
	if got := get[string](p, row+`.innerText`); !strings.Contains(got, "set here, ends with "+key[len(key)-4:]) || !strings.Contains(got, "OK") {
		t.Errorf("the key that was set is shown as %q", got)
	}
	if page := get[string](p, `document.documentElement.outerHTML + document.getElementById("keys-key").value`); strings.Contains(page, key) {
		t.Error("the page still has the key")
	}
	p.do(chromedp.Click(`button[aria-label="Check team-a"]`, chromedp.NodeVisible))
	p.until(`document.getElementById("keys-note").textContent === "The key was checked."`)

	button := row + `.querySelector('button[aria-label^="Delete team-a"]')`
	remove := button + `.click()`
	p.do(chromedp.Evaluate[chromedp.Void](remove))
	for _, what := range []string{`innerText`, `ariaLabel`} { // and to who only hears it
		if got := get[string](p, button+"."+what); !strings.Contains(got, "Delete it?") {
			t.Errorf("one click on Delete, and its %s is %q", what, got)
		}
	}
	p.do(chromedp.Evaluate[chromedp.Void](remove))
	p.until(row + ` === null && document.getElementById("keys-note").textContent === "The key is deleted."`)
}
