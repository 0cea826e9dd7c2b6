/** Code with faults that every analysis finds something in. */
export const example = {
  filename: "server.go",
  code: `package main

import (
	"crypto/md5"
	"database/sql"
	"fmt"
	"net/http"
	"os/exec"
)

var db *sql.DB

const apiSecret = "s3cr3t-Zk81mQ0vTx47rPq92LbD"

// login checks a password and greets the user.
func login(w http.ResponseWriter, r *http.Request) {
	name := r.FormValue("name")
	hash := md5.Sum([]byte(r.FormValue("password")))

	query := fmt.Sprintf("SELECT id FROM users WHERE name = '%s' AND hash = '%x'", name, hash)
	row := db.QueryRow(query)

	var id int
	row.Scan(&id)
	fmt.Fprintf(w, "<h1>Hello, %s</h1>", name)
}

// ping runs the system's ping.
func ping(w http.ResponseWriter, r *http.Request) {
	out, _ := exec.Command("sh", "-c", "ping -c 1 "+r.FormValue("host")).Output()
	w.Write(out)
}

func main() {
	http.HandleFunc("/login", login)
	http.HandleFunc("/ping", ping)
	http.ListenAndServe(":8080", nil)
}
`,
};
