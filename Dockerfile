# docker build -t mammogram-notebooks . && docker run -p 8888:8888 mammogram-notebooks
FROM python:3.11-slim
WORKDIR /project
COPY . .
RUN pip install --no-cache-dir -r requirements.txt
EXPOSE 8888
CMD ["python", "-m", "jupyterlab", "--ip=0.0.0.0", "--no-browser", "--allow-root", "--notebook-dir=/project", "notebooks"]
