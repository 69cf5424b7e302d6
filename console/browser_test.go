package console_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/console"
)

// browserTimeout is how long a browser may take for all pages: it starts in a second or two, on a busy machine in many.
const browserTimeout = 2 * time.Minute

// browser is a Chromium of its own that is spoken to by the Chrome DevTools Protocol, over pipes.
type browser struct {
	t       *testing.T
	to      io.Writer
	from    *bufio.Reader
	session string
	id      int
	// loads counts the pages that were loaded.
	loads int
	// said are what the console of the page was told, and what the browser says of the page there.
	said []string
}

// message is one of either direction.
type message struct {
	ID        int             `json:"id,omitempty"`
	SessionID string          `json:"sessionId,omitempty"`
	Method    string          `json:"method,omitempty"`
	Params    json.RawMessage `json:"params,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Error     *struct{ Message string }
}

// openBrowser starts Chromium, and skips the test where there is none; in CI that is a failure.
func openBrowser(t *testing.T) *browser {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("chromium is not installed")
		}
		t.Skip("chromium is not installed")
	}
	ctx, cancel := context.WithTimeout(t.Context(), browserTimeout)
	t.Cleanup(cancel)
	// No sandbox: it needs privileges that tests do not have, and the pages are ours.
	c := exec.CommandContext(ctx, program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--user-data-dir="+t.TempDir(), "--remote-debugging-pipe", "about:blank")
	c.Env = append(os.Environ(), "HOME="+t.TempDir())
	in, toBrowser, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fromBrowser, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr, c.WaitDelay = io.Discard, browserTimeout // a pipe that all its processes hold: who waits for its end waits for theirs
	c.ExtraFiles = []*os.File{in, out}                 // it reads from 3 and writes to 4
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, to: toBrowser, from: bufio.NewReader(fromBrowser)}
	t.Cleanup(func() {
		_, _ = toBrowser.WriteString(`{"id":0,"method":"Browser.close"}` + "\x00") // if it is there still
		_ = c.Wait()                                                               // also for the processes it started, which write to its folder
		_, _ = toBrowser.Close(), fromBrowser.Close()
	})
	_, _ = in.Close(), out.Close() // which are the browser's
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		b.call(domain+".enable", nil, nil)
	}
	return b
}

// read returns the next message, and takes note of it if it is about the console.
func (b *browser) read() message {
	b.t.Helper()
	text, err := b.from.ReadBytes(0)
	var m message
	if err == nil {
		err = json.Unmarshal(text[:len(text)-1], &m)
	}
	if err != nil {
		b.t.Fatalf("reading from the browser: %v", err)
	}
	switch m.Method {
	case "Page.loadEventFired":
		b.loads++
	case "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening":
		b.said = append(b.said, m.Method+" "+string(m.Params))
	}
	return m
}

// call has the browser do something and reads what comes of it into result, which may be nil.
func (b *browser) call(method string, params, result any) {
	b.t.Helper()
	b.id++
	asked := map[string]any{"id": b.id, "method": method}
	if params != nil {
		asked["params"] = params
	}
	if b.session != "" {
		asked["sessionId"] = b.session
	}
	text, err := json.Marshal(asked)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.to.Write(append(text, 0)); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	for {
		m := b.read()
		if m.ID != b.id {
			continue
		}
		if m.Error != nil {
			b.t.Fatalf("%s: %s", method, m.Error.Message)
		}
		if result != nil {
			if err := json.Unmarshal(m.Result, result); err != nil {
				b.t.Fatalf("%s: %v", method, err)
			}
		}
		return
	}
}

// open goes to url and waits until everything there is loaded.
func (b *browser) open(url string) {
	b.t.Helper()
	b.said = nil
	b.leads(url, func() { b.call("Page.navigate", map[string]any{"url": url}, nil) })
}

// leads does what is to lead to url, and waits until everything there is loaded.
func (b *browser) leads(url string, do func()) {
	b.t.Helper()
	before := b.loads
	do()
	for b.loads == before || b.eval("location.href") != url {
		b.read()
	}
}

// eval returns what an expression of JavaScript comes to. It is the browser's, not the page's, so that the content policy does not matter.
func (b *browser) eval(expression string) any {
	b.t.Helper()
	var got struct {
		Result           struct{ Value any }
		ExceptionDetails json.RawMessage
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true}, &got)
	if got.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s", expression, got.ExceptionDetails)
	}
	return got.Result.Value
}

// tab presses the key that goes to the next link or field.
func (b *browser) tab() {
	b.t.Helper()
	for _, kind := range []string{"keyDown", "keyUp"} {
		b.call("Input.dispatchKeyEvent", map[string]any{"type": kind, "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}, nil)
	}
}

// size makes the window as wide as a phone, say.
func (b *browser) size(width int) {
	b.t.Helper()
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}, nil)
}

// scheme has pages shown as somebody likes them: "light" or "dark".
func (b *browser) scheme(name string) {
	b.t.Helper()
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": name}}}, nil)
}

// contrast is the least ratio of the brightness of a text to that of what is behind it, by WCAG 2.2, section 1.4.3, which asks for 4.5.
const contrast = `(() => {
	const light = c => { const [r, g, b] = c.match(/[\d.]+/g).map(Number).map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b };
	const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\)$/.test(c)) return c } return "rgb(255, 255, 255)" };
	let least = 21;
	for (const e of document.body.querySelectorAll("*")) {
		if (e.matches("option, script, style") || ![...e.childNodes].some(n => n.nodeType == 3 && n.data.trim())) continue;
		const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
		least = Math.min(least, (a + 0.05) / (b + 0.05));
	}
	return least;
})()`

// reachable are what the keyboard has to lead to, in the order of the page.
const reachable = `[...document.querySelectorAll("a[href], input:not([type=hidden]), select, button")].map(e => e.outerHTML)`

// pagesOf are the paths of every page there is.
func pagesOf() []string {
	image := app.String() + "@" + digest.String()
	return []string{
		"/", "/images", "/images?q=acme&decision=deny", "/images/" + app.String() + ":1.0", "/images/" + image, "/images/docker.io/library/none:1", "/quarantine", "/quarantine/" + image,
		"/waivers", "/recalls", "/policy", "/advisories", "/audit?verify=true",
	}
}

// TestPagesInABrowser has Chromium show every page, with names somebody made up in the hope that they are more than text.
func TestPagesInABrowser(t *testing.T) {
	b := openBrowser(t)
	c := console.New(wholeOptions(t))
	t.Run("no page is forgotten", func(t *testing.T) {
		for _, pattern := range c.Routes() {
			path, ok := strings.CutPrefix(pattern, "GET ")
			path, _, _ = strings.Cut(path, "{")
			if !ok || strings.HasPrefix(path, "/api/") || slices.Contains([]string{"/healthz", "/readyz", "/metrics"}, path) {
				continue
			}
			if !slices.ContainsFunc(pagesOf(), func(page string) bool { return strings.HasPrefix(page, path) }) {
				t.Errorf("%s is not looked at", pattern)
			}
		}
	})
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	for _, path := range pagesOf() {
		t.Run(path, func(t *testing.T) {
			b.t = t
			b.size(1100)
			b.open(server.URL + path)
			if got := b.eval(`document.querySelectorAll("script, img, iframe, object, link, [onerror]").length`); got != 0.0 {
				t.Errorf("%v elements of the page are more than text", got)
			}
			if title, _ := b.eval("document.title").(string); !strings.Contains(title, "Tidewaiter") || title == "owned" {
				t.Errorf("its title is %q", title)
			}
			if got := b.eval(`document.querySelectorAll("h1").length + " " + document.querySelectorAll("nav").length + " " + document.documentElement.lang`); got != "1 1 en" {
				t.Errorf("headings, navigation, language: %v", got)
			}
			for _, scheme := range []string{"light", "dark"} {
				b.scheme(scheme)
				if got, _ := b.eval(contrast).(float64); got < 4.5 {
					t.Errorf("the contrast of its %s colours is %.2f", scheme, got)
				}
			}
			for _, width := range []int{1100, 375} {
				b.size(width)
				if b.eval("document.documentElement.scrollWidth <= document.documentElement.clientWidth") != true {
					t.Errorf("at %d it is wider, %v", width, b.eval("document.documentElement.scrollWidth"))
				}
			}
			if path != "/images/docker.io/library/none:1" && len(b.said) > 0 || len(b.said) > 1 { // that there is none is said too
				t.Errorf("the browser complains: %q", b.said)
			}
		})
	}
}

func TestPagesByKeyboard(t *testing.T) {
	b := openBrowser(t)
	server := httptest.NewServer(console.New(wholeOptions(t)))
	t.Cleanup(server.Close)
	for _, path := range []string{"/", "/images", "/quarantine", "/audit"} {
		t.Run("every link and field of "+path, func(t *testing.T) {
			b.t = t
			b.size(1100)
			b.open(server.URL + path)
			want := b.eval(reachable)
			all, ok := want.([]any)
			if !ok || len(all) < 7 {
				t.Fatalf("there is nothing to reach: %v", want)
			}
			var got []any
			for range all {
				b.tab()
				got = append(got, b.eval("document.activeElement.outerHTML"))
			}
			if diff := cmp.Diff(got, all); diff != "" {
				t.Errorf("in this order (-reached +there):\n%s", diff)
			}
			if outline := b.eval(`getComputedStyle(document.activeElement).outlineStyle`); outline == "none" {
				t.Error("nobody sees where one is")
			}
		})
	}
	t.Run("the form asks for a list", func(t *testing.T) {
		b.t = t
		b.open(server.URL + "/images")
		b.leads(server.URL+"/images?q=web&decision=", func() {
			b.eval(`document.querySelector("input[name=q]").value = "web"; document.querySelector("button").click()`)
		})
		if got := b.eval(`document.querySelector("table").innerText.includes("apps/web") && !document.querySelector("table").innerText.includes("acme")`); got != true || len(b.said) > 0 {
			t.Errorf("got %v, %q", b.eval("document.body.innerText"), b.said)
		}
	})
}
