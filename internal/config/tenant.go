package config

import (
	"fmt"
	"strconv"
	"strings"
)

// TenantLimits are those of one tenant, in the place of what the others have. A
// number less than 0 is what the others have.
type TenantLimits struct {
	// Tenant is its name; "~NAME" for the key NAME, which has no tenant.
	Tenant string
	// Requests and Bytes are for a minute.
	Requests             int64
	Bytes                Bytes
	Connections, Streams int64
}

// UnmarshalText reads TENANT=LIMIT:N LIMIT:N…, such as
// acme=requests:600 bytes:10MiB.
func (t *TenantLimits) UnmarshalText(text []byte) error {
	name, rest, ok := strings.Cut(string(text), "=")
	name = strings.TrimSpace(name)
	if !ok || name == "" || strings.TrimSpace(rest) == "" {
		return fmt.Errorf("%.60q is not TENANT=LIMIT:N, such as acme=requests:600 bytes:10MiB", text)
	}
	l := TenantLimits{Tenant: name, Requests: -1, Bytes: -1, Connections: -1, Streams: -1}
	for field := range strings.FieldsSeq(rest) {
		limit, value, _ := strings.Cut(field, ":")
		var to *int64
		switch limit {
		case "requests":
			to = &l.Requests
		case "connections":
			to = &l.Connections
		case "streams":
			to = &l.Streams
		case "bytes":
			if err := l.Bytes.UnmarshalText([]byte(value)); err != nil {
				return err
			}
			continue
		default:
			return fmt.Errorf("%.40q is no limit of a tenant; they are requests, bytes, connections, streams", limit)
		}
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < 0 || n > maxPerMinute {
			return fmt.Errorf("%s of %.60q is %.40q; it must be a number from 0, which sets no limit", limit, name, value)
		}
		*to = n
	}
	*t = l
	return nil
}

// String writes what UnmarshalText reads.
func (t TenantLimits) String() string {
	var b strings.Builder
	b.WriteString(t.Tenant + "=")
	sep := ""
	for _, f := range []struct {
		name  string
		value int64
	}{{"requests", t.Requests}, {"bytes", int64(t.Bytes)}, {"connections", t.Connections}, {"streams", t.Streams}} {
		if f.value >= 0 {
			b.WriteString(sep + f.name + ":" + strconv.FormatInt(f.value, 10))
			sep = " "
		}
	}
	return b.String()
}
