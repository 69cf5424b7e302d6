package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/access"
)

// certificateNotice is how long before its end a certificate is told of, unless it lasts so short that a third of it is less: whoever
// renews by itself does so before.
const certificateNotice = 14 * 24 * time.Hour

// secretFile is a file that is to be read by whoever serves alone.
type secretFile struct {
	key, path string
	// optional files are made when they are needed first.
	optional bool
}

// secretFiles returns the files with secrets that the configuration names.
func (c *config) secretFiles() []secretFile {
	all := []secretFile{
		{"redis.seal_key_file", c.Redis.SealKeyFile, false}, {"access.basic.htpasswd_file", c.Access.Basic.HtpasswdFile, false},
		{"access.tokens.key_file", c.Access.Tokens.KeyFile, false}, {"access.tokens.robots_file", c.Access.Tokens.RobotsFile, false},
		{"statements.key_file", c.Statements.KeyFile, false}, {"listen.tls.key", c.Listen.TLS.Key, false},
	}
	if c.Storage.S3 == nil {
		root := c.Storage.Filesystem.Root
		all = append(all, secretFile{"the seal key", filepath.Join(root, sealKeyName), true}, secretFile{"the key of tokens", filepath.Join(root, "token.key"), true})
	} else if name, ok := c.Storage.S3["secretkey_file"].(string); ok {
		all = append(all, secretFile{"storage.s3.secretkey_file", name, false})
	}
	for _, u := range c.Upstreams {
		all = append(all, secretFile{"the password of " + u.Host, u.Credentials.PasswordFile, false})
	}
	for i, w := range c.Webhooks {
		all = append(all, secretFile{fmt.Sprintf("webhooks[%d].secret_file", i), w.SecretFile, false})
	}
	return slices.DeleteFunc(all, func(f secretFile) bool { return f.path == "" })
}

// checkKeys reads every key and list of callers as serve does, and looks at who else may.
func (d *doctor) checkKeys(context.Context) []diagnosis {
	c := d.config
	_, sealErr := loadSealKey(c)
	if c.Redis.SealKeyFile == "" && errors.Is(sealErr, fs.ErrNotExist) {
		sealErr = nil // serve makes one
	}
	var found []diagnosis
	for _, err := range []error{sealErr, access.CheckFiles(c.access()), c.checkWebhookFiles()} {
		if err != nil {
			found = append(found, misconfigured("see that the file is there, that whoever serves may read it, and nobody else may write it", "%s", inOneLine(err)))
		}
	}
	read := 0
	for _, f := range c.secretFiles() {
		diagnosis, there := f.check()
		if there && diagnosis.Status != sound {
			found = append(found, diagnosis)
		}
		if there && diagnosis.Status != failing {
			read++
		}
	}
	if c.Redis.SealKeyFile == "" {
		found = append(found, doubt("set redis.seal_key_file to keep it elsewhere", "the seal key lies in the storage it seals"))
	}
	return append([]diagnosis{well("%d files with secrets can be read", read)}, found...)
}

// check reports whether the file can be read, and who else may. there is false for one that need not be.
func (f secretFile) check() (_ diagnosis, there bool) {
	opened, err := os.Open(f.path)
	if f.optional && errors.Is(err, fs.ErrNotExist) {
		return diagnosis{}, false
	}
	if err != nil {
		return fail("see that the file is there, and that whoever serves may read it", "%s: %v", f.key, err), true
	}
	defer func() { _ = opened.Close() }() // nothing was read
	info, err := opened.Stat()
	if err != nil {
		return fail("", "%s: %v", f.key, err), true
	}
	if mode := info.Mode().Perm(); mode&othersMayNot != 0 {
		return doubt("chmod 600, or 640 with the group of whoever serves", "%s: %s has mode %v", f.key, f.path, mode), true
	}
	return well("%s", f.path), true
}

// othersMayNot are the permissions on a secret that go beyond those of its owner, and of a group to read it.
const othersMayNot fs.FileMode = 0o027

// checkListeners looks at the certificates clients and operators are shown.
func (d *doctor) checkListeners(context.Context) []diagnosis {
	l := d.config.Listen
	var found []diagnosis
	if l.TLS.ClientCA != "" {
		if _, err := readClientCAs(l.TLS.ClientCA); err != nil {
			found = append(found, misconfigured("see to listen.tls.client_ca", "%s", inOneLine(err)))
		}
	}
	if l.TLS.Cert == "" {
		return append(found, well("no certificate: %s and %s are plain http", l.Registry, l.Admin))
	}
	pair, err := tls.LoadX509KeyPair(l.TLS.Cert, l.TLS.Key)
	if err != nil {
		return append(found, misconfigured("see to listen.tls.cert and key", "%s", inOneLine(err)))
	}
	bad := slices.Concat(d.checkTimes(pair), d.checkNames(pair.Leaf))
	if len(bad) == 0 {
		bad = append(bad, well("the certificate is for %s, and lasts until %s", strings.Join(namesOf(pair.Leaf), ", "), pair.Leaf.NotAfter.UTC().Format(time.RFC3339)))
	}
	return append(found, bad...)
}

// checkTimes looks at when a certificate, and those it comes with, count.
func (d *doctor) checkTimes(pair tls.Certificate) []diagnosis {
	const do = "renew it; the files are read again when they change"
	var found []diagnosis
	for i, der := range pair.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			found = append(found, fail(do, "certificate %d of listen.tls.cert: %v", i+1, err))
			continue
		}
		left := c.NotAfter.Sub(d.now())
		switch notice := min(certificateNotice, c.NotAfter.Sub(c.NotBefore)/3); {
		case left <= 0:
			found = append(found, fail(do, "%s has expired at %s", nameOf(c), c.NotAfter.UTC().Format(time.RFC3339)))
		case d.now().Before(c.NotBefore):
			found = append(found, fail("see to the clock, or renew it", "%s does not count before %s", nameOf(c), c.NotBefore.UTC().Format(time.RFC3339)))
		case left < notice:
			found = append(found, doubt(do, "%s expires in %s", nameOf(c), left.Round(time.Minute)))
		}
	}
	return found
}

// checkNames compares a certificate with the names clients and operators are told. Where an address takes the place of a name, or
// somebody else ends TLS in front of us, that cannot be known.
func (d *doctor) checkNames(leaf *x509.Certificate) []diagnosis {
	var found []diagnosis
	for _, name := range d.config.Listen.Names {
		if host, _, err := net.SplitHostPort(name); err == nil {
			name = host
		}
		if err := leaf.VerifyHostname(name); err != nil {
			found = append(found, fail("have it issued for every name of listen.names", "clients that ask for %s refuse it: it is for %s", name, strings.Join(namesOf(leaf), ", ")))
		}
	}
	for key, raw := range map[string]string{"listen.admin_url": d.config.Listen.AdminURL, "access.tokens.realm": d.config.Access.Tokens.Realm} {
		u, err := url.Parse(raw)
		if err != nil || u.Scheme != "https" {
			continue
		}
		if err := leaf.VerifyHostname(u.Hostname()); err != nil {
			found = append(found, doubt("nothing, if something else answers there", "it is not for %s, the host of %s", u.Hostname(), key))
		}
	}
	slices.SortFunc(found, func(a, b diagnosis) int { return strings.Compare(a.Found, b.Found) })
	return found
}

// namesOf returns what a certificate is for.
func namesOf(c *x509.Certificate) []string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		names = append(names, "no name")
	}
	return names
}

func nameOf(c *x509.Certificate) string {
	if c.IsCA {
		return fmt.Sprintf("the CA certificate %q", c.Subject.CommonName)
	}
	return "the certificate for " + strings.Join(namesOf(c), ", ")
}

// checkStatements sees whether there is a key to state verdicts with. One in a service is asked for.
func (d *doctor) checkStatements(ctx context.Context) []diagnosis {
	key, _, err := d.config.Statements.key()
	if err != nil {
		return []diagnosis{misconfigured("see to statements.key_file", "%s", inOneLine(err))}
	}
	if _, err := key.PublicKey(ctx); err != nil {
		return []diagnosis{fail("see that the key management service can be reached, and that we may use the key", "%s", inOneLine(err))}
	}
	return []diagnosis{well("there is a key, stated as %s", d.config.Statements.Verifier)}
}
